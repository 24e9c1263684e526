"""The doctor on versions, drivers, GPUs, formats, memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipstream.doctor import (
    Finding,
    GpuFacts,
    Machine,
    Memory,
    Methods,
    Report,
    Severity,
    examine,
    report_text,
)
from slipstream.doctor.compatibility import compatibility, release_of_image
from slipstream.doctor.facts import MemoryProblem
from slipstream.doctor.findings import FINDINGS
from slipstream.doctor.gather import gather_facts, parse_gpus, read_pins
from slipstream.doctor.versions import Version, is_older
from slipstream.errors import StaleArtifactError
from slipstream.plan.memory_table import deployment_memory
from tests.unit.doctor_facts import (
    CPU_PACKAGES,
    DRAFT,
    FP8,
    H100,
    PINS,
    ROOT,
    a_machine,
    a_spec,
    found,
    healthy,
    on_the_cpu,
    one,
    without_cves,
)

CONTRACT = ROOT / "tests" / "contract" / "trtllm-1.2.1" / "versions.json"


def test_a_healthy_gpu_deployment_has_only_the_end_of_its_workflow() -> None:
    assert without_cves(healthy()) == {"engine-workflow"}
    assert examine(healthy()).verdict != "blocked"


def test_the_embedded_default_is_not_blocked_and_is_told_of_its_age() -> None:
    report = examine(on_the_cpu())
    assert (report.verdict, report.exit_code) == ("warnings", 0)
    assert without_cves(on_the_cpu()) == {"embedded-triton", "cve-unknown"}
    assert "24.10" in one(on_the_cpu(), "embedded-triton").what


def test_the_table_is_that_of_the_contract() -> None:
    contract = json.loads(CONTRACT.read_text())
    table = compatibility()
    for row in contract["triton_containers"]:
        container = table.container(row["tag"])
        assert container is not None, row["tag"]
        assert container.tensorrt_llm == row["trtllm"].split()[0]
        assert (container.tensorrt, container.cuda) == (row["tensorrt"], row["cuda"])
        assert (container.driver, container.python) == (row["driver"], row["python"])
    assert len(table.containers) == len(contract["triton_containers"])
    for version, companions in table.released_with.items():
        row = contract["trtllm"][version]
        assert companions.transformers == row["transformers"]
        numbers = row["modelopt"].removeprefix("~=").split()[0].split(".")
        assert companions.modelopt.split(".")[:2] == numbers[:2]
    assert table.last_engine_release == contract["engine_workflow"]["newest_full_support"]


def test_the_projects_own_pins_belong_together() -> None:
    assert read_pins(ROOT) == PINS
    assert not found(healthy(pins=read_pins(ROOT)), "pins")


@pytest.mark.parametrize("field", ["tensorrt_llm", "tensorrt", "modelopt", "transformers", "cuda", "minimum_driver"])
def test_a_pin_that_is_not_of_the_container_is_named(field: str) -> None:
    wrong = healthy(pins=replace(PINS, **{field: "9.9.9"}))
    whats = [finding.what for finding in found(wrong, "pins")]
    assert len(whats) == 1
    assert "9.9.9" in whats[0]


def test_an_unknown_image_is_taken_on_trust_and_said() -> None:
    unknown = healthy(pins=replace(PINS, image="registry.example/tritonserver:mine"))
    assert one(unknown, "pins").severity == "medium"
    assert found(unknown, "cve-versions")


def test_another_installed_tensorrt_llm_blocks() -> None:
    other = healthy(machine=a_machine(packages={"tensorrt-llm": "1.1.0", "transformers": "4.56.0"}))
    assert one(other, "runtime-version").severity == "critical"
    assert examine(other).verdict == "blocked"


def test_transformers_beside_tensorrt_llm_is_compared() -> None:
    other = healthy(machine=a_machine(packages={"tensorrt-llm": "1.2.1", "transformers": "4.55.0"}))
    assert "4.57.3" in one(other, "runtime-packages").what


@pytest.mark.parametrize(("version", "severity"), [("0.47.0", None), ("0.48.1", "low"), ("0.49.0", "high")])
def test_modelopt_without_the_export_is_said(version: str, severity: str | None) -> None:
    findings = found(healthy(machine=a_machine(packages={"nvidia-modelopt": version})), "export-packages")
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


def test_transformers_5_would_lose_the_rotary_base() -> None:
    assert "rotary_base" in one(healthy(machine=a_machine(packages={"transformers": "5.0.1"})), "export-packages").what


def test_the_cpu_path_needs_its_packages() -> None:
    bare = on_the_cpu(machine=Machine(shm_bytes=8 << 30))
    assert one(bare, "embedded-triton").severity == "critical"


def test_numpy_2_kills_the_embedded_python_backend() -> None:
    packages = {**CPU_PACKAGES, "numpy": "2.1.0"}
    findings = found(on_the_cpu(machine=Machine(shm_bytes=8 << 30, packages=packages)), "embedded-triton")
    assert [finding.severity for finding in findings] == ["critical", "low"]


def test_an_old_driver_is_grave_on_consumer_cards_and_explained_on_others() -> None:
    old = replace(H100, driver="580.95.05")
    assert one(healthy(machine=a_machine(gpus=(old,))), "driver").severity == "high"
    consumer = replace(old, name="NVIDIA GeForce RTX 4090", sm=89)
    facts = healthy(machine=a_machine(gpus=(consumer, replace(consumer, index=1))))
    assert one(facts, "driver").severity == "critical"


def test_an_old_driver_is_told_of_the_newest_container_that_it_runs() -> None:
    for driver, tag in (("580.95.05", "26.02"), ("580.95.04", "25.10")):
        mend = one(healthy(machine=a_machine(gpus=(replace(H100, driver=driver),))), "driver").mend
        assert f"pin {tag}-trtllm-python-py3" in mend
    assert "pin" not in one(healthy(machine=a_machine(gpus=(replace(H100, driver="535.1"),))), "driver").mend


@pytest.mark.parametrize("driver", ["590.44.01", "590.48.01", "610.43.02"])
def test_a_driver_that_is_new_enough_is_not_mentioned(driver: str) -> None:
    assert not found(healthy(machine=a_machine(gpus=(replace(H100, driver=driver),))), "driver")


def test_too_few_gpus_block() -> None:
    facts = healthy(spec=a_spec(DRAFT), methods=Methods(target="fp8", draft="fp8"), engines=())
    assert one(facts, "gpu-count").severity == "critical"
    four = tuple(replace(H100, index=index) for index in range(4))
    assert not found(replace(facts, machine=a_machine(gpus=four)), "gpu-count")


def test_another_gpu_than_the_spec_names_is_said() -> None:
    b200 = replace(H100, name="NVIDIA B200", sm=100)
    assert "sm_100" in one(healthy(machine=a_machine(gpus=(b200,)), engines=()), "gpu-other").what


def test_without_a_gpu_the_spec_is_checked_alone() -> None:
    assert one(healthy(machine=a_machine(gpus=())), "gpu-none").severity == "info"


def test_a_recipe_that_the_gpu_does_not_run_blocks() -> None:
    finding = one(healthy(methods=Methods(target="nvfp4")), "recipe-on-gpu")
    assert finding.severity == "critical"
    assert "sm_100" in finding.what


def test_on_a_laptop_the_recipe_is_checked_against_the_spec() -> None:
    laptop = healthy(methods=Methods(target="nvfp4"), machine=a_machine(gpus=()))
    assert "sm_90" in one(laptop, "recipe-on-gpu").what


def test_the_drafts_recipe_is_checked_too() -> None:
    facts = healthy(spec=a_spec(DRAFT), methods=Methods(target="fp8", draft="nvfp4"), engines=())
    assert "engine.draft.quantization" in one(facts, "recipe-on-gpu").what


def test_a_kv_format_that_switches_reuse_off_blocks() -> None:
    spec = a_spec(FP8, "quantization.kv_cache=int8")
    facts = healthy(spec=spec, engines=())
    assert one(facts, "kv-format").severity == "critical"
    without = a_spec(
        FP8,
        "quantization.kv_cache=int8",
        "runtime.enable_kv_cache_reuse=false",
        "runtime.enable_chunked_context=false",
    )
    assert not found(replace(facts, spec=without), "kv-format")


@pytest.mark.parametrize(("mib", "is_found"), [(64, True), (1023, True), (1024, False)])
def test_docker_default_shared_memory_is_too_small(mib: int, *, is_found: bool) -> None:
    assert bool(found(healthy(machine=a_machine(shm_bytes=mib << 20)), "shared-memory")) == is_found


@dataclass(frozen=True)
class Problem:
    what: str
    mend: str
    is_fatal: bool


@dataclass(frozen=True)
class Table:
    problems: tuple[MemoryProblem, ...] = ()
    unknown: str | None = None


@pytest.mark.parametrize(("is_fatal", "severity"), [(True, "critical"), (False, "high")])
def test_what_does_not_fit_is_handed_on(*, is_fatal: bool, severity: str) -> None:
    memory: Memory = Table(problems=(Problem(what="too big", mend="smaller", is_fatal=is_fatal),))
    finding = one(healthy(memory=memory), "memory")
    assert (finding.severity, finding.what, finding.mend) == (severity, "too big", "smaller")


def test_the_planners_table_is_taken_as_it_is() -> None:
    spec = a_spec("llama-3.3-70b-int8-sq-tp8-a100", "engine.tp_size=1")
    table = deployment_memory(spec, method="none")
    assert "do not fit" in one(healthy(spec=spec, memory=table, engines=()), "memory").what


def test_unknown_memory_is_said() -> None:
    assert "no such GPU" in one(healthy(memory=Table(unknown="no such GPU")), "memory-unknown").what


def test_a_stale_artifact_keeps_its_mend() -> None:
    stale = StaleArtifactError("the engine is stale: engine.max_seq_len was 1, now it is 2", mend="slipstream build x")
    facts = gather_facts(root=ROOT, spec=a_spec(), stale=[stale])
    finding = one(facts, "artifact-stale")
    assert (finding.what, finding.mend) == (stale.message, stale.mend)


def test_a_project_without_pins_is_told(tmp_path: Path) -> None:
    assert [finding.id for finding in gather_facts(root=tmp_path).found] == ["pins"]


def test_nvidia_smi_is_read_and_what_it_does_not_know_is_left_out() -> None:
    text = "0, NVIDIA H100 80GB HBM3, 9.0, 81559, 590.44.01\n1, NVIDIA GB10, 12.1, [N/A], 590.44.01\n"
    assert parse_gpus(text) == (
        GpuFacts(index=0, name="NVIDIA H100 80GB HBM3", sm=90, memory_mib=81559, driver="590.44.01"),
    )


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.2.1", "v1.3.0 rc11"),
        ("v1.3.0 rc11", "1.3.0 rc12"),
        ("1.3.0 rc16", "1.3.0"),
        ("26.02", "r26.03"),
        ("0.37.0", "0.41.0"),
        ("580.95.05", "590.44.01"),
        ("4.57.3", "5.0"),
    ],
)
def test_versions_are_ordered(older: str, newer: str) -> None:
    assert is_older(older, newer) is True
    assert is_older(newer, older) is False


def test_versions_that_are_the_same_or_none() -> None:
    assert Version.parse("1.2") == Version.parse("1.2.0")
    assert Version.parse("unknown") is None
    assert is_older("unknown", "1.0") is None


@pytest.mark.parametrize(
    ("image", "release"), [(PINS.image, "26.07"), ("nvcr.io/nvidia/tritonserver:latest", None), ("x", None)]
)
def test_the_release_is_read_from_the_tag(image: str, release: str | None) -> None:
    assert release_of_image(image) == release


def test_the_report_as_json_has_the_fields_that_scripts_read() -> None:
    data = examine(healthy(methods=Methods(target="nvfp4"))).as_json()
    assert set(data) == {"verdict", "findings"}
    assert data["verdict"] == "blocked"
    assert all(set(finding) == {"id", "severity", "what", "mend"} for finding in data["findings"])
    assert data["findings"][0]["severity"] == "critical"


@pytest.mark.parametrize(
    ("severity", "verdict", "exit_code"),
    [
        (None, "ok", 0),
        ("info", "ok", 0),
        ("low", "ok", 0),
        ("medium", "warnings", 0),
        ("high", "warnings", 0),
        ("critical", "blocked", 1),
    ],
)
def test_the_gravest_finding_gives_the_verdict(severity: Severity | None, verdict: str, exit_code: int) -> None:
    findings = [Finding(id="driver", severity=severity, what="w", mend="m")] if severity else []
    report = Report(subject="x", findings=tuple(findings))
    assert (report.verdict, report.exit_code) == (verdict, exit_code)


def test_the_text_counts_what_clients_cannot_reach() -> None:
    report = examine(on_the_cpu())
    short, long = report_text(report), report_text(report, every=True)
    assert "more known vulnerabilities" in short
    assert short.count("CVE-") < 5
    assert long.count("CVE-") > 50
    assert "nothing to do" not in long


def test_every_finding_of_the_code_is_described() -> None:
    import re

    sources = (ROOT / "src" / "slipstream" / "doctor").glob("*.py")
    text = "\n".join(path.read_text() for path in sources)
    used = set(re.findall(r'id="([a-z-]+)"', text)) | set(re.findall(r'finding\(\s*"([a-z-]+)"', text))
    assert used == set(FINDINGS)


def test_the_machine_itself_is_examined_without_heavy_imports() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from slipstream.doctor import examine, gather_facts;"
        "examine(gather_facts(root=Path(sys.argv[1])));"
        "print(sorted({'torch', 'transformers', 'modelopt', 'openvino', 'tritonclient', 'numpy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_doctor_without_a_deployment_reports_on_the_machine() -> None:
    report = examine(gather_facts(root=ROOT))
    assert report.subject == "this machine"
    assert "engine-missing" not in {finding.id for finding in report.findings}


def test_the_exposure_table_is_yaml_of_known_reaches() -> None:
    data: dict[str, dict[str, Any]] = yaml.safe_load(
        (ROOT / "src" / "slipstream" / "doctor" / "data" / "exposure.yaml").read_text()
    )
    rules = [rule for rows in data.values() for rule in rows.values()]
    assert {rule["reach"] for rule in rules} == {"none", "local", "user"}
    assert {rule.get("when") for rule in rules} == {None, "multi_rank", "llmapi", "model_control"}


def test_a_driver_is_nothing_to_a_deployment_on_the_cpu() -> None:
    laptop = replace(H100, name="NVIDIA GeForce RTX 3060", driver="535.1")
    facts = on_the_cpu()
    assert not found(replace(facts, machine=replace(facts.machine, gpus=(laptop,))), "driver")


def test_on_a_bare_machine_an_old_driver_is_no_verdict_on_a_deployment() -> None:
    laptop = replace(H100, name="NVIDIA GeForce RTX 3060", driver="535.1")
    assert one(healthy(spec=None, engines=(), machine=a_machine(gpus=(laptop,))), "driver").severity == "high"


def test_the_gpus_that_a_machine_must_have_are_those_of_its_ranks_and_those_named() -> None:
    spare = a_spec(FP8, "engine.tp_size=8", "hardware.gpus_per_node=8", "hardware.nodes=2")
    eight = one(healthy(spec=spare, engines=(), machine=a_machine(gpus=(H100,) * 4)), "gpu-count")
    assert "need 8 on each machine" in eight.what
    named = a_spec(
        FP8,
        "hardware.gpus_per_node=4",
        "runtime.engine_instances=2",
        "runtime.launch_mode=orchestrator",
        "runtime.tensorrt_llm.gpu_device_ids='0;3'",
    )
    assert "need 4" in one(healthy(spec=named, machine=a_machine(gpus=(H100, H100))), "gpu-count").what


def test_a_recipe_that_the_llm_api_does_not_read_blocks() -> None:
    spec = a_spec("llama-3.1-8b-nvfp4-llmapi-b200", "quantization.recipe=int8_sq", "hardware.gpu=H100 80GB SXM")
    finding = one(healthy(spec=spec, methods=Methods(target="int8_sq"), engines=()), "recipe-on-target")
    assert finding.severity == "critical"
    assert "fp8" in finding.mend
    assert not found(healthy(spec=spec, methods=Methods(target="fp8"), engines=()), "recipe-on-target")


def test_a_kv_cache_that_cannot_be_beside_the_weights_blocks() -> None:
    spec = a_spec(FP8, "quantization.recipe=nvfp4", "quantization.kv_cache=int8", "hardware.gpu=RTX PRO 6000")
    facts = healthy(spec=spec, methods=Methods(target="nvfp4"), engines=(), hardware_sm=120)
    assert "rejects an INT8 KV cache" in one(facts, "kv-format").what
