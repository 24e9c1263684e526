"""Plans: what is chosen and why, what is refused and what would mend it, and the files that a plan leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slipstream.cli import app
from slipstream.errors import SlipstreamError
from slipstream.plan.calibration import calibration
from slipstream.plan.catalogue import catalogue_data, find_model
from slipstream.plan.deployment import deployment_name, deployment_yaml
from slipstream.plan.document import document_text
from slipstream.plan.examples import EXAMPLES
from slipstream.plan.inputs import HardwareInput, ModelInput, PlanInput, WorkloadInput
from slipstream.plan.reading import read_texts
from slipstream.plan.report import pareto_csv, plan_json
from slipstream.plan.search import Plan, make_plan
from slipstream.plan.speculation import break_even, expected_tokens, speculate
from slipstream.plan.understanding import Understanding
from slipstream.spec_file import load_deployment


def a_plan(
    model: dict[str, object] | None = None,
    workload: dict[str, object] | None = None,
    hardware: dict[str, object] | None = None,
) -> Plan:
    made = PlanInput(
        model=ModelInput.model_validate({"name": "Llama 3.1 8B", **(model or {})}),
        workload=WorkloadInput.model_validate(
            {"input_tokens": 500.0, "output_tokens": 200.0, "tpot_ms": 50.0, **(workload or {})}
        ),
        hardware=HardwareInput.model_validate({"gpu": "H100", **(hardware or {})}),
    )
    return make_plan(made, calibration())


def planned(name: str) -> tuple[Plan, Understanding]:
    texts = EXAMPLES[name]
    reading = read_texts(model=texts.model, workload=texts.workload, hardware=texts.hardware)
    return make_plan(reading.input, calibration()), reading.notes


@pytest.fixture(scope="module")
def chat() -> tuple[Plan, Understanding]:
    return planned("llama-3-70b-chat-on-h100")


@pytest.fixture(scope="module")
def batch() -> tuple[Plan, Understanding]:
    return planned("mixtral-8x22b-batch-on-a100")


@pytest.fixture(scope="module")
def plain() -> Plan:
    return a_plan()


def test_the_committed_example_documents_are_fresh(
    chat: tuple[Plan, Understanding], batch: tuple[Plan, Understanding], root: Path
) -> None:
    documents = {"llama-3-70b-chat-on-h100": chat, "mixtral-8x22b-batch-on-a100": batch}
    assert documents.keys() == EXAMPLES.keys()
    for name, (plan, notes) in documents.items():
        assert (root / "docs" / "plans" / f"{name}.md").read_text() == document_text(plan, notes)


def test_the_chat_case_keeps_its_promises_inside_of_a_node(chat: tuple[Plan, Understanding]) -> None:
    plan, _ = chat
    assert plan.unmet == ()
    assert plan.chosen.tpot_ms.value <= 50
    assert plan.chosen.case.split.pp == 1
    assert plan.chosen.gpus == 8
    assert plan.chosen.memory.free_bytes > plan.chosen.memory.kv_cache_bytes > 0


def test_the_chat_case_shows_what_another_format_would_do(chat: tuple[Plan, Understanding]) -> None:
    plan, _ = chat
    best = plan.other_formats[0]
    assert best.case.weights.name == "fp8"
    assert best.tokens_per_s.value > plan.chosen.tokens_per_s.value


def test_no_tensor_parallelism_leaves_a_node_on_a_slow_network(batch: tuple[Plan, Understanding]) -> None:
    plan, _ = batch
    for candidate in (plan.chosen, *plan.alternatives, *plan.pareto):
        assert candidate.case.split.tp <= 8
    assert plan.chosen.case.split.tp <= 2, "all-reduce over PCIe is the bottleneck beyond pairs"
    assert plan.chosen.case.gpu.link == "pcie"


def test_long_prompts_are_bound_by_arithmetic_and_wide_pcie_groups_by_communication(
    batch: tuple[Plan, Understanding],
) -> None:
    plan, _ = batch
    assert plan.chosen.limits[0][0] == "arithmetic of matrix products"
    wide = [c for c in plan.alternatives if c.case.split.tp >= 4]
    assert wide
    assert {c.limits[0][0] for c in wide} == {"communication between GPUs"}


def test_a_load_takes_as_many_replicas_as_it_needs_and_no_more() -> None:
    small, large = (a_plan(workload={"requests_per_s": rate}) for rate in (5.0, 150.0))
    assert small.chosen.gpus == 1
    assert small.chosen.gpus < large.chosen.gpus <= 8


def test_a_load_beyond_the_hardware_says_what_would_carry_it() -> None:
    with pytest.raises(SlipstreamError, match="nodes of 8"):
        a_plan(workload={"requests_per_s": 5000.0})


def test_a_model_that_does_not_fit_says_what_would_hold_it() -> None:
    with pytest.raises(SlipstreamError, match=r"32 × L40S hold it in fp16; or allow int4_awq"):
        a_plan(model={"name": "Llama 3.1 405B", "weights": "fp16"}, hardware={"gpu": "L40S"})


def test_a_format_that_the_gpu_lacks_is_refused() -> None:
    with pytest.raises(SlipstreamError, match="needs sm_89 or newer"):
        a_plan(model={"weights": "fp8"}, hardware={"gpu": "A100"})


def test_an_impossible_promise_is_named_with_the_nearest() -> None:
    plan = a_plan(workload={"tpot_ms": 0.5})
    assert "at most 0.5 ms is asked for" in plan.unmet[0]
    assert "Not kept" in document_text(plan, Understanding())


def test_latency_and_throughput_pull_apart(plain: Plan) -> None:
    fast = a_plan(workload={"objective": "latency"}).chosen
    full = plain.chosen
    assert fast.tpot_ms.value < full.tpot_ms.value
    assert fast.tokens_per_s.value < full.tokens_per_s.value


def test_no_point_of_the_pareto_front_beats_another(plain: Plan) -> None:
    front = plain.pareto
    users = [one.tokens_per_s_per_user for one in front]
    per_gpu = [one.tokens_per_s_per_gpu for one in front]
    assert users == sorted(users, reverse=True)
    assert per_gpu == sorted(per_gpu)
    assert len(front) > 3


def test_the_deployment_file_loads_as_it_is(
    chat: tuple[Plan, Understanding], plain: Plan, tmp_path: Path, root: Path
) -> None:
    for plan in (chat[0], plain, a_plan(model={"name": "gpt-oss-20b"}, hardware={"gpu": "H200"})):
        path = tmp_path / f"{deployment_name(plan)}.yaml"
        path.write_text(deployment_yaml(plan))
        spec = load_deployment(str(path), root=root)
        assert spec.engine.tp_size == plan.chosen.case.split.tp
        assert spec.engine.max_batch_size == plan.chosen.batch
        assert spec.engine.max_seq_len <= plan.model.shape.max_context


def test_every_setting_has_its_reason_beside_it(plain: Plan) -> None:
    lines = [line for line in deployment_yaml(plain).splitlines()[1:] if line and not line.endswith(":")]
    assert all("  # " in line for line in lines)


def test_cost_follows_the_price() -> None:
    cheap, dear = (a_plan(hardware={"price_usd_hour": price}).cost for price in (1.0, 3.0))
    assert cheap is not None
    assert dear is not None
    assert dear.usd_per_month == pytest.approx(3 * cheap.usd_per_month)
    assert cheap.usd_per_month == 8 * 730
    assert a_plan(hardware={"gpu": "A30"}).cost is None


def test_the_document_has_every_section_and_only_known_works(chat: tuple[Plan, Understanding]) -> None:
    text = document_text(*chat)
    for heading in (
        "Objective",
        "Architecture",
        "Key components",
        "From request to response",
        "Complexity and capacity",
        "Alternatives",
        "Pros, cons and trade-offs",
        "In production",
        "References",
        "Reproducibility",
    ):
        assert f"\n## {heading}\n" in text
    links = set(re.findall(r"\]\((https://[^)]+)\)", text))
    assert links <= {work["link"] for work in catalogue_data("bibliography.yaml")["works"].values()}
    assert len(links) >= 10


def test_tables_are_whole_and_the_diagram_is_closed(batch: tuple[Plan, Understanding]) -> None:
    text = document_text(*batch)
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    (diagram,) = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    assert diagram.count("subgraph") == len(re.findall(r"^\s*end$", diagram, re.MULTILINE)) > 0
    named = set(re.findall(r"(\w+)\[", diagram))
    used = {
        word
        for line in diagram.splitlines()
        if "->" in line
        for word in re.findall(r"\b([a-z]\w*)\b(?![^\[]*\])", line)
    }
    assert used <= named | {"flowchart"}


def test_the_same_input_gives_the_same_document(plain: Plan) -> None:
    notes = Understanding()
    assert document_text(plain, notes) == document_text(a_plan(), notes)


def test_json_carries_intervals_reasons_and_the_deployment(chat: tuple[Plan, Understanding]) -> None:
    found = json.loads(json.dumps(plan_json(*chat)))
    chosen = found["chosen"]
    assert chosen["tokens_per_s"]["low"] < chosen["tokens_per_s"]["value"] < chosen["tokens_per_s"]["high"]
    assert sum(chosen["time_shares"].values()) == pytest.approx(1)
    assert all(setting["reason"] for setting in found["settings"])
    assert found["contradictions"]
    assert pareto_csv(chat[0]).count("\n") == len(found["pareto"]) + 1


def test_the_command_plans_and_writes(tmp_path: Path) -> None:
    texts = ["--model", "Llama 3.1 8B FP8", "--workload", "chat, 20 rps", "--hardware", "2x H100"]
    result = CliRunner().invoke(app, ["plan", *texts, "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model"] == "Llama 3.1 8B"
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".yaml", ".csv", ".json"}
    assert CliRunner().invoke(app, ["plan", "--model", "Llama 3.1 8B"]).exit_code == 2


def test_drafting_pays_alone_and_not_in_a_large_batch() -> None:
    case = a_plan(model={"name": "Llama 3.3 70B", "weights": "fp8"}).chosen.case
    draft = find_model("Llama 3.2 1B")
    rows = speculate(case, draft, calibration().coefficients, 0.7)
    assert rows[0].speedup > 1.5
    assert rows[0].speedup > rows[-1].speedup
    assert break_even(speculate(case, draft, calibration().coefficients, 0.0)) is None


def test_expected_tokens_follow_the_geometric_sum() -> None:
    assert expected_tokens(0.5, 2) == pytest.approx(1 + 0.5 + 0.25)
    assert expected_tokens(1, 4) == 5
