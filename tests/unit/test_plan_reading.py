"""Free text is read the same way every time; what is open is assumed aloud, what cannot be is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipstream.errors import SpecError
from slipstream.plan.inputs import read_plan_input
from slipstream.plan.reading import Reading, read_texts

MODEL = "Llama-3-70B instruct, INT8 AWQ quantization, 8K context window."
WORKLOAD = (
    "High concurrency chat application, average input 500 tokens, average output 1500 tokens."
    " Needs high token generation throughput."
)
HARDWARE = "8x H100 80GB SXM5 nodes connected via NVSwitch."


def reading(model: str = MODEL, workload: str = WORKLOAD, hardware: str = HARDWARE) -> Reading:
    return read_texts(model=model, workload=workload, hardware=hardware)


def test_the_documented_texts_are_understood() -> None:
    found = reading().input
    assert found.model.name == "meta-llama/Meta-Llama-3-70B-Instruct"
    assert (found.model.weights, found.model.context_tokens) == ("int4_awq", 8192)
    assert (found.workload.kind, found.workload.input_tokens, found.workload.output_tokens) == ("chat", 500, 1500)
    assert found.workload.objective == "throughput"
    assert (found.hardware.gpu, found.hardware.gpus_per_node, found.hardware.nodes) == ("H100 80GB SXM", 8, 1)


def test_int8_awq_is_named_as_a_contradiction() -> None:
    assert "there is no 8-bit AWQ" in reading().notes.contradictions[0]
    assert reading(model="Llama-3-70B, AWQ, 8K context").notes.contradictions == []


def test_what_is_left_open_is_assumed_aloud() -> None:
    notes = reading(model="Llama 3 8B", workload="hello", hardware="H100").notes
    said = " ".join(notes.assumptions)
    for word in ("input_tokens", "output_tokens", "Objective", "Weights", "Context window", "8 GPUs in a node"):
        assert word in said


def test_every_fact_quotes_the_text() -> None:
    texts = " ".join((MODEL, WORKLOAD, HARDWARE))
    quoted = [fact for fact in reading().notes.facts if fact.field != "gpus"]
    assert all(fact.words in texts for fact in quoted), quoted


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("prompts of 20k tokens, answers of 300 tokens", "input_tokens", 20000),
        ("20k-token inputs", "input_tokens", 20000),
        ("ISL 1,024, OSL 128", "output_tokens", 128),
        ("200 rps", "requests_per_s", 200),
        ("600 requests per minute", "requests_per_s", 10),
        ("1000 concurrent users", "concurrency", 1000),
        ("TTFT < 300 ms", "ttft_ms", 300),
        ("first token within 1.5 s", "ttft_ms", 1500),
        ("TPOT under 20ms", "tpot_ms", 20),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, field: str, value: float) -> None:
    assert getattr(reading(workload=text).input.workload, field) == value


@pytest.mark.parametrize(
    ("text", "nodes", "per_node"),
    [
        ("4 nodes of 8x A100-SXM4-80GB", 4, 8),
        ("two nodes with 4 H200 each", 2, 4),
        ("2x L40S", 1, 2),
        ("16 H200 GPUs", 2, 8),
    ],
)
def test_nodes_and_gpus_are_counted(text: str, nodes: int, per_node: int) -> None:
    hardware = reading(hardware=text).input.hardware
    assert (hardware.nodes, hardware.gpus_per_node) == (nodes, per_node)


def test_a_network_and_a_missing_link_are_read() -> None:
    hardware = reading(hardware="2 nodes of 8x A100 80GB PCIe without NVLink, 100 GbE").input.hardware
    assert (hardware.network_gbit_s, hardware.nvlink) == (100, False)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("TPU v5e pod", "TPU v5e"),
        ("8x MI300X", "MI300X"),
        ("Intel Gaudi 3", "Gaudi 3"),
        ("AWS Trainium", "Trainium"),
        ("4x V100", "V100"),
        ("Apple M4 Max", "Apple"),
    ],
)
def test_hardware_of_others_is_refused_by_its_name(text: str, name: str) -> None:
    with pytest.raises(SpecError) as caught:
        reading(hardware=text)
    assert name in caught.value.message
    assert caught.value.exit_code == 2


def test_a_format_that_cannot_be_loaded_is_refused_by_its_name() -> None:
    with pytest.raises(SpecError, match="Q4_K_M"):
        reading(model="Llama 3 8B Q4_K_M")


def test_a_context_longer_than_the_model_knows_is_cut_aloud() -> None:
    found = reading(model="Llama 2 70B, 32k context")
    assert found.input.model.context_tokens == 4096
    assert "4096" in found.notes.contradictions[0]


def test_a_file_says_the_same_as_a_text(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("model: {name: Llama 3 8B}\nworkload: {input_tokens: 1, output_tokens: 2}\nhardware: {gpu: H100}\n")
    assert read_plan_input(path).hardware.gpus_per_node == 8
    path.write_text(path.read_text().replace("gpu:", "gpv:"))
    with pytest.raises(SpecError, match=r"hardware\.gpv"):
        read_plan_input(path)
