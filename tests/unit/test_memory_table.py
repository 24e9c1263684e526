"""The memory of each GPU of a deployment, row by row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipstream.formats import FORMATS, Method
from slipstream.plan.catalogue import find_gpu, find_model
from slipstream.plan.memory_loads import ModelOnGpu
from slipstream.plan.memory_table import (
    GIB,
    MemoryRow,
    MemoryTable,
    deployment_memory,
    memory_table,
    memory_text,
)
from slipstream.spec import DeploymentSpec
from slipstream.spec_file import deployment_names, load_deployment

ROOT = Path(__file__).resolve().parents[2]
FP8, DRAFT, LLMAPI = "llama-3.1-8b-fp8-h100", "llama-3.3-70b-fp8-tp4-draft", "llama-3.1-8b-nvfp4-llmapi-b200"


def a_spec(name: str = FP8, *overrides: str) -> DeploymentSpec:
    return load_deployment(name, overrides, root=ROOT)


def a_table(spec: DeploymentSpec, method: Method = "fp8", draft: Method | None = "fp8") -> MemoryTable:
    table = deployment_memory(spec, method=method, draft_method=draft)
    assert table is not None
    assert table.unknown is None, table.unknown
    return table


def row(table: MemoryTable, name: str) -> MemoryRow:
    (found,) = [row for row in table.rows if row.name == name]
    return found


@pytest.mark.parametrize("name", [name for name in deployment_names(ROOT) if not name.startswith("smollm2")])
def test_every_reference_deployment_fits_and_adds_up(name: str) -> None:
    spec = a_spec(name)
    method = next(entry.name for entry in FORMATS.values() if entry.name == spec.quantization.recipe)
    table = a_table(spec, method)
    assert not table.problems
    parts = [row.bytes for row in table.rows if row.name != "card"]
    assert sum(parts) == row(table, "card").bytes
    assert all(part > 0 for part in parts)


def test_weights_are_those_of_the_published_model() -> None:
    # 8.03 billion parameters: 7.0 in linear layers of one byte, embedding and head (128,256 x 4,096 each) of two.
    embeddings = 2 * 128_256 * 4096
    expected = (8.03e9 - embeddings) + 2 * embeddings
    assert row(a_table(a_spec()), "weights").bytes == pytest.approx(expected, rel=0.005)


def test_the_kv_cache_is_the_fraction_of_what_is_left() -> None:
    table = a_table(a_spec(FP8, "runtime.kv_cache_free_gpu_mem_fraction=0.5"))
    before = sum(row(table, name).bytes for name in ("weights", "activations", "runtime"))
    left = row(table, "card").bytes - before
    assert row(table, "KV cache").bytes == pytest.approx(left / 2, abs=2)
    assert row(table, "free").bytes == pytest.approx(left / 2, abs=2)


def test_tokens_and_requests_follow_from_the_bytes() -> None:
    table = a_table(a_spec())
    per_token = 32 * 2 * 8 * 128  # layers, K and V, KV heads, head size; one byte each
    tokens = row(table, "KV cache").bytes // per_token
    detail = row(table, "KV cache").detail
    assert f"{tokens:,} tokens" in detail
    assert f"{tokens // 16384} requests of max_seq_len = 16,384" in detail


def test_each_beam_keeps_tokens_of_its_own() -> None:
    one, four = a_table(a_spec()), a_table(a_spec(FP8, "engine.max_beam_width=4"))
    held = [int(row(table, "KV cache").detail.split(" requests")[0].split()[-1]) for table in (one, four)]
    assert held[0] // 4 - 1 <= held[1] <= held[0] // 4


def test_a_16_bit_cache_holds_half() -> None:
    narrow, wide = a_table(a_spec()), a_table(a_spec(FP8, "quantization.kv_cache=auto"))
    assert row(narrow, "KV cache").bytes == row(wide, "KV cache").bytes
    held = [
        int(row(table, "KV cache").detail.split(" tokens")[0].split()[-1].replace(",", "")) for table in (narrow, wide)
    ]
    assert held[0] == pytest.approx(2 * held[1], abs=2)


def test_each_rank_holds_its_share() -> None:
    one = row(a_table(a_spec()), "weights").bytes
    two = a_table(a_spec(FP8, "engine.tp_size=2", "hardware.gpus_per_node=2"))
    assert row(two, "weights").bytes == pytest.approx(one / 2, rel=0.01)
    assert row(two, "runtime").bytes > row(a_table(a_spec()), "runtime").bytes


def test_the_draft_takes_its_fraction_of_what_the_target_leaves() -> None:
    table = a_table(a_spec(DRAFT))
    names = [row.name for row in table.rows]
    assert names.index("KV cache") < names.index("draft weights") < names.index("draft KV cache")
    after_target = row(table, "card").bytes - sum(
        row(table, name).bytes for name in ("runtime", "weights", "activations", "KV cache")
    )
    left = after_target - row(table, "draft weights").bytes - row(table, "draft activations").bytes
    assert row(table, "draft KV cache").bytes == pytest.approx(left * 0.1, abs=2)
    assert any("the target first" in note for note in table.notes)


def test_a_target_that_leaves_no_room_for_the_draft_is_an_error() -> None:
    spec = a_spec(
        DRAFT, "runtime.kv_cache_free_gpu_mem_fraction=0.99", "engine.draft.kv_cache_free_gpu_mem_fraction=0.005"
    )
    shape = find_model("Llama 3.1 8B").shape
    big = ModelOnGpu(shape=shape, method="none", kv_cache="auto")
    target = ModelOnGpu(shape=find_model("Llama 3.3 70B").shape, method="fp8", kv_cache="fp8")
    (problem,) = memory_table(spec, find_gpu("H100 80GB SXM"), target, big).problems
    assert problem.is_fatal
    assert problem.what.startswith("draft weights")


def test_a_draft_that_loads_first_and_takes_all_is_said() -> None:
    spec = a_spec(
        DRAFT, "runtime.kv_cache_free_gpu_mem_fraction=0.1", "engine.draft.kv_cache_free_gpu_mem_fraction=0.85"
    )
    (problem,) = a_table(spec).problems
    assert not problem.is_fatal
    assert "draft loads first" in problem.what


def test_weights_that_do_not_fit_are_an_error_that_names_the_gap() -> None:
    table = a_table(a_spec("llama-3.3-70b-int8-sq-tp8-a100", "engine.tp_size=1"), "none")
    (problem,) = table.problems
    assert problem.is_fatal
    missing = -row(table, "free").bytes / GIB
    assert missing > 50
    assert f"{missing:.1f} GiB are missing" in problem.what


def test_a_cache_below_one_request_is_a_warning() -> None:
    table = a_table(a_spec(FP8, "runtime.kv_cache_free_gpu_mem_fraction=0.01", "engine.max_seq_len=131072"))
    (problem,) = table.problems
    assert not problem.is_fatal
    assert "less than one request" in problem.what
    assert "runtime.kv_cache_free_gpu_mem_fraction" in problem.mend


def test_a_limit_in_tokens_caps_the_cache() -> None:
    table = a_table(a_spec(FP8, "runtime.tensorrt_llm.max_tokens_in_paged_kv_cache=100000"))
    assert "100,000 tokens" in row(table, "KV cache").detail


def test_instances_on_one_gpu_load_their_weights_each() -> None:
    table = a_table(a_spec(FP8, "runtime.engine_instances=2", "runtime.kv_cache_free_gpu_mem_fraction=0.4"))
    assert row(table, "instance 2 weights").bytes == row(table, "weights").bytes
    assert row(table, "instance 2 KV cache").bytes < row(table, "KV cache").bytes


def test_instances_on_gpus_of_their_own_do_not_share() -> None:
    spread = a_spec(
        FP8,
        "runtime.engine_instances=2",
        "runtime.launch_mode=orchestrator",
        'runtime.tensorrt_llm.gpu_device_ids="0;1"',
        "hardware.gpus_per_node=2",
    )
    assert "instance 2 weights" not in [row.name for row in a_table(spread).rows]


def test_streamed_weights_take_their_share_of_the_gpu() -> None:
    whole = row(a_table(a_spec()), "weights").bytes
    half = a_spec(FP8, "engine.trtllm_build.weight_streaming=true", "runtime.tensorrt_llm.gpu_weights_percent=0.5")
    assert row(a_table(half), "weights").bytes == pytest.approx(whole / 2, abs=1)


def test_lora_takes_its_cache_before_the_kv_cache() -> None:
    spec = a_spec(FP8, "engine.lora={}", "runtime.tensorrt_llm.lora_cache_gpu_memory_fraction=0.2")
    table = a_table(spec)
    assert row(table, "LoRA cache").bytes > 10 * GIB
    assert row(table, "KV cache").bytes < row(a_table(a_spec()), "KV cache").bytes


def test_drafted_tokens_widen_the_targets_logits() -> None:
    target = ModelOnGpu(shape=find_model("Llama 3.3 70B").shape, method="fp8", kv_cache="fp8")
    gpu = find_gpu("H100 80GB SXM")
    sizes = [
        row(memory_table(a_spec(DRAFT, f"engine.draft.max_draft_len={length}"), gpu, target), "activations").bytes
        for length in (1, 9)
    ]
    assert sizes[1] - sizes[0] == 64 * 8 * 128_256 * 4  # requests x further tokens x vocabulary x 4 bytes


def test_an_iteration_holds_the_drafted_tokens_of_all_requests() -> None:
    needed = 64 * (5 + 1)  # requests x (drafted tokens and the target's own): the builder raises max_num_tokens to it
    below, at = (a_table(a_spec(DRAFT, f"engine.max_num_tokens={tokens}")) for tokens in (64, needed))
    assert row(below, "activations").bytes == row(at, "activations").bytes


def test_an_orchestrator_has_a_cuda_context_for_each_engine() -> None:
    led, orchestrated = (a_table(a_spec(DRAFT, f"runtime.launch_mode={mode}")) for mode in ("leader", "auto"))
    assert row(orchestrated, "runtime").bytes == 2 * row(led, "runtime").bytes


def test_the_context_count_follows_the_launcher() -> None:
    from slipstream.plan.memory_loads import processes

    for name in (FP8, DRAFT, LLMAPI):
        for mode in ("auto", "leader", "orchestrator"):
            spec = a_spec(name, f"runtime.launch_mode={mode}")
            assert (processes(spec, 2) == 2) == spec.is_orchestrated


def test_the_llm_api_has_a_table_too() -> None:
    table = a_table(a_spec(LLMAPI), "nvfp4")
    assert table.gpu == "B200"
    assert row(table, "weights").bytes < row(a_table(a_spec()), "weights").bytes


def test_the_llm_api_gives_target_and_draft_equally_many_tokens() -> None:
    draft = "engine.draft={model: {source: meta-llama/Llama-3.2-1B-Instruct, dtype: bfloat16}}"
    table = a_table(a_spec(LLMAPI, draft), "nvfp4", "none")
    target_row, draft_row = row(table, "KV cache"), row(table, "draft KV cache")
    assert target_row.bytes / (32 * 2 * 8 * 128) == pytest.approx(draft_row.bytes / (16 * 2 * 8 * 64 * 2), rel=1e-6)
    parts = sum(row(table, name).bytes for name in ("runtime", "weights", "activations"))
    parts += sum(row(table, f"draft {name}").bytes for name in ("weights", "activations"))
    left = row(table, "card").bytes - parts
    assert target_row.bytes + draft_row.bytes == pytest.approx(0.9 * left, rel=1e-6)
    assert any("one KV budget" in note for note in table.notes)


def test_the_cpu_has_no_table() -> None:
    assert deployment_memory(a_spec("smollm2-135m-cpu"), method="int8_wo") is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.source=someone/else-7b", "neither prepared"),
        ("hardware.gpu=TPU v5e", "not in the catalogue"),
        ("hardware=null", "no hardware section"),
    ],
)
def test_what_is_unknown_is_said(override: str, words: str) -> None:
    table = deployment_memory(a_spec(FP8, override), method="fp8")
    assert table is not None
    assert words in (table.unknown or "")
    assert table.as_json() == [{"gpu": table.gpu, "row": "unknown", "gib": None, "detail": table.unknown}]
    assert "unknown" in memory_text(table)


def test_a_prepared_model_is_read_before_the_catalogue(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "vocab_size": 1000,
        "intermediate_size": 1024,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    table = deployment_memory(a_spec(), method="fp8", model_directory=tmp_path)
    assert table is not None
    assert row(table, "weights").bytes < GIB


def test_a_damaged_config_falls_back_to_the_catalogue(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    table = deployment_memory(a_spec(), method="fp8", model_directory=tmp_path)
    assert table is not None
    assert row(table, "weights").bytes == row(a_table(a_spec()), "weights").bytes


def test_the_json_has_a_row_each() -> None:
    table = a_table(a_spec())
    rows = table.as_json()
    assert [one["row"] for one in rows] == [row.name for row in table.rows]
    assert all(one["gpu"] == "H100 80GB SXM" for one in rows)
    assert json.loads(json.dumps(rows)) == rows


def test_the_text_names_rows_and_problems() -> None:
    text = memory_text(a_table(a_spec("llama-3.3-70b-int8-sq-tp8-a100", "engine.tp_size=1"), "none"))
    assert "KV cache" in text
    assert "error: target weights" in text
    assert "mend: raise engine.tp_size" in text
