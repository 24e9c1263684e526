"""A built engine: the same whatever the parallelism, and described by engine.json."""

from __future__ import annotations

import json
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from slipstream.engine.openvino import build_engine
from slipstream.engine.properties import pipeline_properties
from slipstream.errors import SlipstreamError, SpecError
from tests.fakes.checkpoints import Stored, TinyModel, write_checkpoint
from tests.fakes.engines import build, logits

MODEL = TinyModel(intermediate_size=128)
FORMATS = ("W8A16", "W8A8_SQ_PER_CHANNEL", "FP8", "W4A16_AWQ", "W4A8_AWQ", "NVFP4")
IDS = np.random.default_rng(1).integers(0, MODEL.vocab_size, (2, 9))


@pytest.fixture(scope="module")
def in_one_piece(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], Path]:
    """Engines of undivided checkpoints, each built once."""

    @cache
    def built(quant_algo: str | None) -> Path:
        return build(write_checkpoint(tmp_path_factory.mktemp("whole"), MODEL, quant_algo=quant_algo))

    return built


@pytest.mark.parametrize("quant_algo", [None, *FORMATS])
@pytest.mark.parametrize(("tp_size", "pp_size"), [(2, 1), (4, 1), (1, 2), (2, 2)])
def test_parallelism_leaves_no_trace_in_the_engine(
    in_one_piece: Callable[[str | None], Path], tmp_path: Path, tp_size: int, pp_size: int, quant_algo: str | None
) -> None:
    whole = in_one_piece(quant_algo)
    cut = build(write_checkpoint(tmp_path / "cut", MODEL, tp_size=tp_size, pp_size=pp_size, quant_algo=quant_algo))
    assert (cut / "openvino_model.bin").read_bytes() == (whole / "openvino_model.bin").read_bytes()
    np.testing.assert_array_equal(logits(cut, IDS, chunk=9), logits(whole, IDS, chunk=9))


def test_padding_of_the_vocabulary_gets_no_logits(tmp_path: Path) -> None:
    engine = build(write_checkpoint(tmp_path / "checkpoint", MODEL, tp_size=4))
    assert logits(engine, IDS, chunk=9).shape == (2, 9, 101)


def test_cached_tokens_give_the_same_logits_as_a_whole_prompt(tmp_path: Path) -> None:
    engine = build(write_checkpoint(tmp_path / "checkpoint", MODEL, quant_algo="W8A16"))
    np.testing.assert_allclose(logits(engine, IDS, chunk=2), logits(engine, IDS, chunk=9), atol=1e-4)


def test_no_token_sees_a_later_one(tmp_path: Path) -> None:
    engine = build(write_checkpoint(tmp_path / "checkpoint", MODEL))
    changed = IDS.copy()
    changed[:, -1] = (changed[:, -1] + 1) % MODEL.vocab_size
    before, after = logits(engine, IDS, chunk=9), logits(engine, changed, chunk=9)
    np.testing.assert_array_equal(before[:, :-1], after[:, :-1])
    assert (before[:, -1] != after[:, -1]).any()


@pytest.mark.parametrize("quant_algo", [None, *FORMATS])
def test_every_layer_becomes_paged_attention_with_fused_rope_and_norms(tmp_path: Path, quant_algo: str | None) -> None:
    kernels = paged_kernels(build(write_checkpoint(tmp_path / "checkpoint", MODEL, quant_algo=quant_algo)))
    assert (kernels["PagedAttention"], kernels["RoPE"], kernels["RMS"]) == (2, 4, 5)
    assert kernels["FullyConnected"] == 2 * 4 + 1


def test_branches_with_input_scales_of_their_own_are_two_products(tmp_path: Path) -> None:
    stored = Stored(quant_algo="W4A16_AWQ", shares_input_scales=False)
    kernels = paged_kernels(build(write_checkpoint(tmp_path / "checkpoint", MODEL, stored)))
    assert kernels["FullyConnected"] == 2 * 5 + 1


def paged_kernels(engine: Path) -> Counter[str]:
    """How often the CPU runs each kind of kernel in one step, after the conversion that the pipeline makes."""
    import openvino
    from openvino._offline_transformations import paged_attention_transformation

    core = openvino.Core()
    model = core.read_model(engine / "openvino_model.xml")
    paged_attention_transformation(model)
    runtime = core.compile_model(model, "CPU", pipeline_properties("performance")).get_runtime_model()
    return Counter(node.get_rt_info()["layerType"].astype(str) for node in runtime.get_ops())


LINEAR_WEIGHTS = 2 * (256 * 64 + 128 * 64 + 3 * 128 * 64)
LINEAR_ROWS = 2 * (256 + 64 + 2 * 128 + 64)


@pytest.mark.parametrize(
    ("quant_algo", "weight_bits", "scale_bytes"),
    [
        ("W8A16", 8, 4 * LINEAR_ROWS),
        ("W8A8_SQ_PER_CHANNEL", 8, 4 * LINEAR_ROWS + 4 * 2 * (128 + 128)),  # and of the inputs of dense and proj
        ("FP8", 8, 4 * 2 * 2 * 128),  # the two branches, fused: one a row
        ("W4A16_AWQ", 4, 4 * LINEAR_WEIGHTS // 32 + 4 * 2 * (128 + 128)),
        ("NVFP4", 4, 4 * LINEAR_WEIGHTS // 16),
    ],
)
def test_weights_are_stored_in_the_bits_of_their_format(
    tmp_path: Path, quant_algo: str, weight_bits: int, scale_bytes: int
) -> None:
    half = build(write_checkpoint(tmp_path / "half", MODEL))
    quantized = build(write_checkpoint(tmp_path / "quantized", MODEL, quant_algo=quant_algo))
    saved = (half / "openvino_model.bin").stat().st_size - (quantized / "openvino_model.bin").stat().st_size
    assert saved == pytest.approx(LINEAR_WEIGHTS * (16 - weight_bits) // 8 - scale_bytes, abs=512)


def test_vocabulary_is_the_source_models_where_the_export_padded_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"vocab_size": 101}')
    padded = write_checkpoint(tmp_path / "checkpoint", replace(MODEL, vocab_size=128), quant_algo="W4A16_AWQ")
    engine = build(padded, tokenizer_dir=source)
    assert logits(engine, IDS, chunk=9).shape == (2, 9, 101)
    assert json.loads((engine / "engine.json").read_text())["vocab_size"] == 101


@pytest.mark.parametrize("quant_algo", ["W4A8_AWQ", "NVFP4"])
def test_engine_json_tells_the_format_of_the_checkpoint(tmp_path: Path, quant_algo: str) -> None:
    engine = build(write_checkpoint(tmp_path / "checkpoint", MODEL, quant_algo=quant_algo, kv_cache_quant_algo="FP8"))
    assert json.loads((engine / "engine.json").read_text())["quant_algo"] == quant_algo


def test_engine_json_tells_what_a_backend_needs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"eos_token_id": 5, "pad_token_id": 3}')
    (source / "generation_config.json").write_text('{"eos_token_id": [2, 7], "bos_token_id": 1}')
    engine = build(write_checkpoint(tmp_path / "checkpoint", MODEL, quant_algo="W8A16"), tokenizer_dir=source)
    facts = json.loads((engine / "engine.json").read_text())
    assert facts == {
        "target": "openvino",
        "architecture": "LlamaForCausalLM",
        "vocab_size": 101,
        "not_finite_id": 101,
        "context_tokens": 256,
        "num_layers": 2,
        "num_kv_heads": 2,
        "head_size": 32,
        "quant_algo": "W8A16",
        "weight_bytes": (engine / "openvino_model.bin").stat().st_size,
        "eos_token_ids": [2, 7],
        "bos_token_id": 1,
        "pad_token_id": 3,
        "has_tokenizer": False,
        "execution": {mode: pipeline_properties(mode) for mode in ("performance", "accuracy")},
    }
    assert json.loads((engine / "generation_config.json").read_text())["eos_token_id"] == [2, 7]


def test_kv_precision_is_always_said() -> None:
    assert pipeline_properties("accuracy")["KV_CACHE_PRECISION"] == "f32"
    assert pipeline_properties("performance")["KV_CACHE_PRECISION"] == "u8"


def test_context_beyond_the_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"max_seq_len is 513, the model's context is 512") as caught:
        build(write_checkpoint(tmp_path / "checkpoint", MODEL), max_seq_len=513)
    assert caught.value.mend == "set engine.max_seq_len to 512 or less"


@pytest.mark.parametrize(
    ("source_config", "is_active"),
    [
        ({"sliding_window": 64}, True),
        ({"sliding_window": 256}, False),
        ({"sliding_window": None}, False),
        ({"sliding_window": 64, "use_sliding_window": False}, False),
    ],
)
def test_active_sliding_window_is_refused(tmp_path: Path, source_config: dict[str, object], is_active: bool) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(source_config))
    checkpoint = write_checkpoint(tmp_path / "checkpoint", replace(MODEL, architecture="MistralForCausalLM"))
    if not is_active:
        build(checkpoint, tokenizer_dir=source)
        return
    with pytest.raises(SpecError, match="sliding window of 64 tokens"):
        build(checkpoint, tokenizer_dir=source)


def test_qwen3_checkpoint_without_its_norms_is_refused(tmp_path: Path) -> None:
    model = replace(MODEL, architecture="Qwen3ForCausalLM")  # as ModelOpt's export leaves it
    with pytest.raises(
        SlipstreamError, match=r"tensor transformer\.layers\.0\.attention\.q_layernorm\.weight is missi"
    ):
        build(write_checkpoint(tmp_path / "checkpoint", model))


def test_llama_checkpoint_with_head_norms_is_refused(tmp_path: Path) -> None:
    model = replace(MODEL, has_qk_norm=True)
    with pytest.raises(
        SlipstreamError, match=r"4 tensors have no place in LlamaForCausalLM, the first is .*k_layernorm"
    ):
        build(write_checkpoint(tmp_path / "checkpoint", model))


def test_full_disk_gives_one_clear_error(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", MODEL)
    with files_no_larger_than(10_000), pytest.raises(SlipstreamError, match="cannot be written") as caught:
        build(checkpoint)
    assert "openvino_model.xml" in caught.value.message
    assert "room" in caught.value.mend


@contextmanager
def files_no_larger_than(limit_bytes: int) -> Iterator[None]:
    """Writing more fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_progress_is_told_layer_by_layer(tmp_path: Path) -> None:
    told: list[tuple[str, float | None]] = []
    out = tmp_path / "out"
    out.mkdir()
    checkpoint = write_checkpoint(tmp_path / "checkpoint", MODEL)
    build_engine(checkpoint, out, max_seq_len=256, report=lambda text, fraction=None: told.append((text, fraction)))
    assert told == [("layer 1 of 2", 0.5), ("layer 2 of 2", 1.0), ("writing the engine", None)]
