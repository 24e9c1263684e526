"""How fast the simulator is, by requests and replicas: .venv/bin/python perf/simulator_speed.py

Writes perf/results/simulator_speed.json and prints the rows (CPU seconds of one core).
"""

import json
import time
from pathlib import Path

from slipstream.plan.calibration import calibration
from slipstream.plan.scenario import Scenario, make_requests, scenario_times
from slipstream.plan.simulate import Cluster

root = Path(__file__).resolve().parents[1]
rows = []
for count, replicas in ((10_000, 10), (100_000, 10), (100_000, 100), (100_000, 1000), (1_000_000, 1000)):
    scenario = Scenario.model_validate(
        {
            "model": {"name": "Llama 3.1 8B", "weights": "fp8"},
            "hardware": {"gpu": "H100"},
            "replicas": replicas,
            "arrivals": {"requests": count, "requests_per_s": 20.0 * replicas, "spread": 0.5},
        }
    )
    requests = make_requests(scenario, root)
    times = scenario_times(scenario, requests, calibration())
    begin = time.process_time()
    Cluster(times=times, size=replicas, policy="power_of_two").run(requests)
    seconds = time.process_time() - begin
    rows.append(
        {
            "requests": count,
            "replicas": replicas,
            "cpu_s": round(seconds, 3),
            "requests_per_cpu_s": round(count / seconds),
        }
    )
    print(rows[-1])
(root / "perf" / "results" / "simulator_speed.json").write_text(json.dumps({"rows": rows}, indent=2) + "\n")
