"""Every architecture of the family against Hugging Face and ModelOpt, on tiny models with random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slipstream.engine.quantize_rows import quantize_rows
from tests.fakes.checkpoints import (
    LLAMA3_SCALING,
    Stored,
    TinyModel,
    dequantized_weights,
    hugging_face_weights,
    write_checkpoint,
)
from tests.fakes.engines import build, greedy, logits, pipeline

LLAMA = TinyModel()
MODELS = {
    "llama": LLAMA,
    "llama without grouped heads": replace(LLAMA, num_kv_heads=4, head_size=16),
    "llama with one KV head": replace(LLAMA, num_kv_heads=1),
    "llama in bfloat16": replace(LLAMA, dtype="bfloat16"),
    "llama with tied embeddings": replace(LLAMA, has_own_lm_head=False),
    "llama 3.1 rope scaling": replace(LLAMA, rotary_base=500000.0, rotary_scaling=LLAMA3_SCALING, head_size=64),
    "mistral": replace(LLAMA, architecture="MistralForCausalLM", norm_epsilon=1e-6),
    "qwen2 with biases": replace(LLAMA, architecture="Qwen2ForCausalLM", has_qkv_bias=True),
    "qwen3 with head norms": replace(LLAMA, architecture="Qwen3ForCausalLM", has_qk_norm=True),
}
FORMATS = ("W8A8_SQ_PER_CHANNEL", "FP8", "W4A16_AWQ", "W4A8_AWQ", "NVFP4")
LOGIT_TOLERANCE = 2e-4  # float32 sums in another order; logits are of the order of 10
IDS = np.random.default_rng(3).integers(0, LLAMA.vocab_size, (2, 150))  # beyond the 64 tokens that scaling is told of


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def model(request: pytest.FixtureRequest) -> TinyModel:
    return request.param


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices are slower on many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_logits_are_hugging_faces(model: TinyModel, tmp_path: Path) -> None:
    engine = build(write_checkpoint(tmp_path / "checkpoint", model))
    expected = reference_logits(hugging_face_model(model))
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(logits(engine, IDS, chunk=40), expected, atol=LOGIT_TOLERANCE, rtol=0)


def test_int8_logits_are_those_of_modelopts_fake_quantized_model(model: TinyModel, tmp_path: Path) -> None:
    engine = build(write_checkpoint(tmp_path / "checkpoint", model, quant_algo="W8A16"))
    quantized = calibrated(hugging_face_model(model))
    expected = reference_logits(quantized)
    np.testing.assert_allclose(logits(engine, IDS, chunk=40), expected, atol=LOGIT_TOLERANCE, rtol=0)


@pytest.mark.parametrize("quant_algo", FORMATS)
@pytest.mark.parametrize("shares_input_scales", [True, False])
def test_quantized_logits_are_those_of_the_dequantized_weights(
    tmp_path: Path, quant_algo: str, shares_input_scales: bool
) -> None:
    model = replace(LLAMA, intermediate_size=128)
    excluded = ("lm_head", "transformer.layers.1.mlp.proj", "transformer.layers.0.mlp.gate")
    stored = Stored(quant_algo=quant_algo, shares_input_scales=shares_input_scales, exclude_modules=excluded)
    engine = build(write_checkpoint(tmp_path / "checkpoint", model, stored))
    expected = reference_logits(hugging_face_model(model, dequantized_weights(model, stored)))
    assert np.abs(expected - reference_logits(hugging_face_model(model))).max() > 20 * LOGIT_TOLERANCE
    np.testing.assert_allclose(logits(engine, IDS, chunk=40), expected, atol=LOGIT_TOLERANCE, rtol=0)


@pytest.mark.parametrize("quant_algo", FORMATS)
def test_quantized_greedy_tokens_are_those_of_the_dequantized_weights(tmp_path: Path, quant_algo: str) -> None:
    model = replace(MODELS["qwen2 with biases"], intermediate_size=128, dtype="bfloat16")
    stored = Stored(quant_algo=quant_algo, tp_size=2, pp_size=2, kv_cache_quant_algo="FP8")
    pipe = pipeline(build(write_checkpoint(tmp_path / "checkpoint", model, stored)), "accuracy")
    reference = hugging_face_model(model, dequantized_weights(model, stored))
    prompts = [IDS[row, :length].tolist() for row, length in ((0, 3), (1, 17))]
    together = greedy(pipe, prompts, 32)
    assert together == [
        reference_choices(reference, prompt, tokens) for prompt, tokens in zip(prompts, together, strict=True)
    ]


def test_greedy_tokens_are_hugging_faces_one_by_one_and_in_flight(model: TinyModel, tmp_path: Path) -> None:
    reference = calibrated(hugging_face_model(model))
    engine = build(write_checkpoint(tmp_path / "checkpoint", model, quant_algo="W8A16"))
    pipe = pipeline(engine, "accuracy")
    prompts = [IDS[row, :length].tolist() for row, length in ((0, 3), (1, 17), (0, 40), (1, 100))]
    one_by_one = [greedy(pipe, [prompt], 48)[0] for prompt in prompts]
    assert one_by_one == [
        reference_choices(reference, prompt, tokens) for prompt, tokens in zip(prompts, one_by_one, strict=True)
    ]
    assert greedy(pipe, prompts, 48) == one_by_one


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_int8_values_and_row_scales_equal_modelopts(dtype: str) -> None:
    model = replace(LLAMA, dtype=dtype, hidden_size=256, intermediate_size=512)
    quantized = calibrated(hugging_face_model(model))
    for name, linear in quantizable(quantized):
        rows = quantize_rows(linear.weight.detach().numpy())
        quantizer = linear.weight_quantizer
        np.testing.assert_array_equal(rows.row_scales, (quantizer.amax.float() / 127).numpy().ravel(), err_msg=name)
        steps = (127 / quantizer.amax.float()).reshape(-1, 1)
        values = (quantizer(linear.weight).detach() * steps).round().to(torch.int8)
        np.testing.assert_array_equal(rows.values, values.numpy(), err_msg=name)


def test_modelopts_own_export_builds_like_the_tiny_writers(tmp_path: Path) -> None:
    from modelopt.torch.export import export_tensorrt_llm_checkpoint

    exported = tmp_path / "exported"
    exported.mkdir()
    with torch.inference_mode():
        export_tensorrt_llm_checkpoint(
            hugging_face_model(LLAMA).half(), "llama", torch.float16, exported, inference_tensor_parallel=2
        )
    written = build(write_checkpoint(tmp_path / "written", LLAMA))
    assert (build(exported) / "openvino_model.bin").read_bytes() == (written / "openvino_model.bin").read_bytes()


def hugging_face_model(model: TinyModel, weights: Mapping[str, Any] | None = None) -> Any:
    """The Hugging Face model with the weights of the tiny checkpoint, or with `weights`, in float32."""
    import transformers

    config_class = getattr(transformers, model.architecture.replace("ForCausalLM", "Config"))
    config = config_class(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        num_key_value_heads=model.num_kv_heads,
        head_dim=model.head_size,
        rms_norm_eps=model.norm_epsilon,
        rope_theta=model.rotary_base,
        rope_scaling=model.rotary_scaling and dict(model.rotary_scaling),
        max_position_embeddings=model.max_position_embeddings,
        sliding_window=None,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    reference = getattr(transformers, model.architecture)(config).eval()
    tensors = {
        name: torch.from_numpy(values.copy()) for name, values in (weights or hugging_face_weights(model)).items()
    }
    reference.load_state_dict(tensors, strict=True)
    return reference


def calibrated(model: Any) -> Any:
    """`model` with ModelOpt's INT8 weight-only quantizers, calibrated."""
    import modelopt.torch.quantization as mtq

    return mtq.quantize(model, mtq.INT8_WEIGHT_ONLY_CFG, lambda calibrating: calibrating(torch.from_numpy(IDS)))


def quantizable(model: Any) -> list[tuple[str, Any]]:
    linears = [(name, part) for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)]
    chosen = [(name, linear) for name, linear in linears if linear.weight_quantizer.is_enabled]
    assert len(chosen) == len(linears) - 1  # all but lm_head
    return chosen


def reference_logits(model: Any) -> Any:
    with torch.inference_mode():
        return model(torch.from_numpy(IDS)).logits.numpy()


def reference_choices(model: Any, prompt: list[int], tokens: list[int]) -> list[int]:
    """What `model` finds likeliest in place of every one of `tokens`: themselves, if they are its greedy output."""
    with torch.inference_mode():
        likeliest = model(torch.tensor([prompt + tokens])).logits[0].argmax(-1)
    return likeliest[len(prompt) - 1 : -1].tolist()
