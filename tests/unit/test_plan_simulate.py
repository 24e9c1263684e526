"""The simulator: nothing is lost, equal seeds agree, and known laws of queues hold."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from slipstream.cli import app
from slipstream.errors import SpecError
from slipstream.plan.calibration import calibration
from slipstream.plan.replica import Replica, Request, StepTimes
from slipstream.plan.scenario import Scenario, make_requests, read_scenario, simulate
from slipstream.plan.simulate import Autoscaling, Cluster, Failure, Outcome, Policy

POLICIES: list[Policy] = ["round_robin", "least_outstanding", "power_of_two", "prefix_affinity"]


def times(capacity: int = 100_000, batch: int = 64) -> StepTimes:
    """A server with round numbers: 10 ms an iteration, 10 µs a prompt token."""
    return StepTimes(
        decode_s=[0.010 + 1e-5 * n for n in range(batch + 1)],
        mixed_s=[0.010 + 1e-5 * n for n in range(2049)],
        kv_s=1e-8,
        attention_s=0,
        reply_s=0,
        kv_capacity_tokens=capacity,
        max_batch=batch,
        max_num_tokens=2048,
    )


def requests(count: int = 200, rate: float = 20, prefixes: int = 0) -> list[Request]:
    random = np.random.default_rng(3)
    at = np.cumsum(random.exponential(1 / rate, count))
    sizes = random.integers(50, 400, (count, 2))
    return [
        Request(float(t), int(i), int(o), int(random.integers(1, prefixes + 1)) if prefixes else 0, 40)
        for t, (i, o) in zip(at, sizes, strict=True)
    ]


def run(policy: Policy = "least_outstanding", size: int = 4, seed: int = 0, **more: object) -> Outcome:
    return Cluster(times=times(), size=size, policy=policy, seed=seed, **more).run(requests())  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_ends_once_and_in_order(policy: Policy) -> None:
    served = requests(prefixes=5)
    outcome = Cluster(times=times(), size=4, policy=policy).run(served)
    assert outcome.requests == len(served)
    assert all(r.arrival_s < r.first_s <= r.finish_s for r in served)


def test_one_request_alone_takes_its_prompt_and_its_tokens() -> None:
    request = Request(0.0, 100, 11)
    replica = Replica(times())
    replica.accept(request, 0.0)
    replica.advance(math.inf)
    assert request.first_s == pytest.approx(0.010 + 100e-5)
    kv = sum(1e-8 * (101 + n) for n in range(10))
    assert request.finish_s - request.first_s == pytest.approx(10 * (0.010 + 1e-5) + kv)


def test_skipping_iterations_is_the_same_as_taking_them_one_by_one() -> None:
    at_once, in_steps = requests(50), requests(50)
    for served, stride in ((at_once, math.inf), (in_steps, 0.003)):
        replica = Replica(times())
        for request in served:
            while stride < math.inf and replica.now_s + stride < request.arrival_s and replica.outstanding:
                replica.advance(replica.now_s + stride)
            replica.advance(request.arrival_s)
            replica.accept(request, request.arrival_s)
        replica.advance(math.inf)
    assert [r.finish_s for r in at_once] == pytest.approx([r.finish_s for r in in_steps], rel=1e-9)


def test_long_prompts_are_split_and_the_kv_cache_is_never_overrun() -> None:
    replica = Replica(times(capacity=6000))
    served = [Request(0.0, 5000, 10), Request(0.0, 900, 10), Request(0.0, 900, 10)]
    for request in served:
        replica.accept(request, 0.0)
    for _ in range(100):
        replica.advance(replica.now_s + 1e-6)
        assert replica.reserved_tokens <= 6000
    assert served[0].first_s == pytest.approx(2 * (0.010 + 2048e-5) + 0.010 + (5000 - 4096 + 900) * 1e-5, abs=1e-3)
    assert served[2].first_s > served[0].finish_s


def test_the_same_seed_gives_the_same_outcome() -> None:
    assert run("power_of_two", seed=5) == run("power_of_two", seed=5)
    assert run("power_of_two", seed=5) != run("power_of_two", seed=6)


def test_littles_law_holds() -> None:
    served = requests(400, rate=30)
    outcome = Cluster(times=times(), size=4, policy="least_outstanding").run(served)
    moments = np.linspace(served[0].arrival_s, max(r.finish_s for r in served), 4000)
    inside = np.mean([sum(r.arrival_s <= t < r.finish_s for r in served) for t in moments])
    assert inside == pytest.approx(outcome.requests_per_s * outcome.e2e_ms["mean"] / 1000, rel=0.02)


def test_choosing_between_two_beats_taking_turns_when_requests_differ() -> None:
    def tail(policy: Policy) -> float:
        served = [Request(0.02 * n, 100, 2000 if n % 8 == 0 else 20) for n in range(800)]
        return Cluster(times=times(batch=4), size=8, policy=policy).run(served).ttft_ms["p95"]

    assert tail("power_of_two") < tail("round_robin")


def test_a_lost_replica_costs_retries_and_latency_and_no_request() -> None:
    calm = run(size=2)
    hurt = run(size=2, failures=[Failure(replica=0, at_s=2.0, for_s=5.0)])
    assert calm.retries == 0 < hurt.retries
    assert hurt.requests == calm.requests
    assert hurt.e2e_ms["p99"] > calm.e2e_ms["p99"]


def test_requests_wait_while_nothing_is_up() -> None:
    outcome = run(size=1, failures=[Failure(replica=0, at_s=1.0, for_s=3.0)])
    assert outcome.requests == 200
    assert outcome.ttft_ms["p99"] > 2500


def test_affinity_finds_more_prefixes_than_taking_turns() -> None:
    def served(policy: Policy) -> int:
        shared = [Request(0.05 * n, 600, 5, 1 + n * 7 % 39, 512) for n in range(400)]
        return Cluster(times=times(capacity=8000), size=8, policy=policy).run(shared).prefix_hits

    assert served("prefix_affinity") > served("round_robin")


def test_a_reused_prefix_shortens_the_first_token() -> None:
    first, second = Request(0.0, 1000, 2, 1, 960), Request(10.0, 1000, 2, 1, 960)
    Cluster(times=times(), size=1, policy="round_robin").run([first, second])
    assert second.first_s - second.arrival_s == pytest.approx(0.010 + 40e-5)
    assert first.first_s - first.arrival_s == pytest.approx(0.010 + 1000e-5)


def test_a_burst_starts_replicas_and_a_calm_one_does_not() -> None:
    scaling = Autoscaling(minimum=1, maximum=6, target_outstanding=10, start_s=2, interval_s=1)
    assert run(size=1, autoscaling=scaling).replicas_most > 1
    calm = Cluster(times=times(), size=1, policy="round_robin", autoscaling=scaling).run(requests(20, rate=1))
    assert calm.replicas_most == 1


def a_scenario(**change: object) -> Scenario:
    settings = {
        "model": {"name": "Llama 3.1 8B", "weights": "fp8"},
        "hardware": {"gpu": "H100"},
        "arrivals": {"requests": 300, "requests_per_s": 20.0},
    }
    return Scenario.model_validate({**settings, **change})


def test_a_scenario_meets_its_rate_and_slows_when_overrun(tmp_path: Path) -> None:
    calm = simulate(a_scenario(), calibration(), root=tmp_path)
    hot = simulate(a_scenario(arrivals={"requests": 300}), calibration(), root=tmp_path)
    assert calm.requests_per_s == pytest.approx(20, rel=0.2)
    assert hot.ttft_ms["p99"] > 3 * calm.ttft_ms["p99"]
    assert hot.output_tokens_per_s > calm.output_tokens_per_s


def test_a_trace_is_played(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,4808,10\n"
        "2023-11-16 18:17:05.9799600,31,8\n"
    )
    made = make_requests(a_scenario(arrivals={"trace": "trace.csv", "speed": 2.0}), tmp_path)
    assert [(r.input_tokens, r.output_tokens) for r in made] == [(4808, 10), (31, 8)]
    assert made[1].arrival_s == pytest.approx(1.0)


def test_a_scenario_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no room for a request"):
        simulate(a_scenario(model={"name": "Llama 3.1 405B"}), calibration(), root=tmp_path)
    (tmp_path / "s.yaml").write_text("replicas: -1\n")
    with pytest.raises(SpecError, match="replicas"):
        read_scenario(tmp_path / "s.yaml")


def test_the_committed_scenario_runs_from_the_command_line(root: Path) -> None:
    path = root / "perf" / "scenarios" / "one-replica-dies.yaml"
    result = CliRunner().invoke(app, ["simulate", str(path), "--json"])
    found = json.loads(result.stdout)
    assert found["requests"] == 6000
    assert found["retries"] > 0
