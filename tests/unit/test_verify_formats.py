"""Which part of the model a rank holds, which codes belong to weights, and what is said of those that do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slipstream.quantize.verify.codes import compare, take_apart
from slipstream.quantize.verify.diagnosis import Surroundings, diagnose
from slipstream.quantize.verify.findings import Codes, Verification, error
from slipstream.quantize.verify.logits import compare_logits
from slipstream.quantize.verify.text import verification_text
from slipstream.trtllm_checkpoint.config import Architecture, Experts, Parallelism, Quantization
from slipstream.trtllm_checkpoint.ranks import Part, kv_heads_of, linears_of_layer, rank_of, vocabulary_rows

QUANTIZATION = Quantization(
    algo="FP8", kv_cache_algo=None, group_size=128, exclude_modules=("lm_head",), has_prequant_scales=False
)
WEIGHTS = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
PART = Part(label="q", source="q_proj", first_row=0, source_rows=range(16), source_columns=range(64))


def an_architecture(*, tp: int = 1, pp: int = 1, ep: int = 1, experts: int | None = None) -> Architecture:
    return Architecture(
        name="LlamaForCausalLM",
        vocab_size=101,
        hidden_size=64,
        intermediate_size=96,
        num_layers=4,
        num_heads=8,
        num_kv_heads=2,
        head_size=8,
        norm_epsilon=1e-5,
        max_position_embeddings=128,
        sliding_window_tokens=None,
        rotary_base=10000.0,
        rope_scaling=None,
        has_qk_norm=False,
        experts=Experts(count=experts, chosen=2) if experts else None,
        quantization=QUANTIZATION,
        parallelism=Parallelism(tp_size=tp, pp_size=pp, moe_tp_size=tp // ep, moe_ep_size=ep, embedding_axis=0),
        dtype="float16",
        has_attention_bias=False,
        has_mlp_bias=False,
        qwen_type=None,
    )


def test_a_rank_of_a_later_stage_holds_later_layers() -> None:
    rank = rank_of(an_architecture(tp=2, pp=2), 3)
    assert (rank.tp_rank, rank.pp_rank, rank.first_layer, rank.num_layers) == (1, 1, 2, 2)
    assert not rank.is_first_stage
    assert rank.is_last_stage


def test_heads_are_cut_and_kv_heads_repeated() -> None:
    architecture = an_architecture(tp=4)
    assert [kv_heads_of(architecture, rank_of(architecture, index)).start for index in range(4)] == [0, 0, 1, 1]
    qkv, dense, *_ = linears_of_layer(architecture, rank_of(architecture, 3), 0)
    assert [(part.label, part.first_row, part.source_rows) for part in qkv.parts] == [
        ("q", 0, range(48, 64)),
        ("k", 16, range(8, 16)),
        ("v", 24, range(8, 16)),
    ]
    assert dense.parts[0].source_columns == range(48, 64)


def test_experts_lie_in_groups_and_are_cut_within_them() -> None:
    architecture = an_architecture(tp=4, ep=2, experts=4)
    fc = linears_of_layer(architecture, rank_of(architecture, 3), 1)[3]
    assert (fc.name, fc.experts, fc.rows) == ("transformer.layers.1.mlp.fc", 2, 96)
    up, gate = fc.parts[:2]
    assert (up.source, up.source_rows, up.first_row) == (
        "model.layers.1.block_sparse_moe.experts.2.w3",
        range(48, 96),
        0,
    )
    assert (gate.source, gate.first_row) == ("model.layers.1.block_sparse_moe.experts.2.w1", 48)


def test_the_vocabulary_is_padded_to_the_ranks() -> None:
    architecture = an_architecture(tp=4)
    assert vocabulary_rows(architecture, rank_of(architecture, 3), 101) == range(78, 104)


def test_excluded_layers_are_floats() -> None:
    architecture = replace(
        an_architecture(), quantization=replace(QUANTIZATION, exclude_modules=("*.layers.0.mlp.*", "lm_head"))
    )
    algos = {linear.name: linear.algo for linear in linears_of_layer(architecture, rank_of(architecture, 0), 0)}
    assert algos["transformer.layers.0.mlp.proj"] is None
    assert algos["transformer.layers.0.attention.qkv"] == "FP8"


def int8_stored(prequant: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """WEIGHTS' first 16 rows in INT8 SmoothQuant."""
    factors = np.ones(64, np.float16) if prequant is None else prequant
    unfolded = WEIGHTS[:16] / factors.astype(np.float32)
    scales = (np.abs(unfolded).max(1) / 127).astype(np.float32)
    codes = np.rint(unfolded / scales[:, None]).astype(np.int8)
    return {"weight": codes, "weights_scaling_factor": scales, "prequant_scaling_factor": factors}


def test_codes_unfold_to_the_weights() -> None:
    factors = np.linspace(0.5, 2, 64).astype(np.float16)
    block = take_apart("W8A8_SQ_PER_CHANNEL", int8_stored(factors), slice(0, 16))
    difference = compare(block, WEIGHTS[:16])
    assert difference.is_equal.all()
    np.testing.assert_allclose(block.unfolded, WEIGHTS[:16], atol=0.06)


def test_a_code_beside_its_edge_is_near_and_one_further_off_is_wrong() -> None:
    stored = int8_stored()
    scaled = WEIGHTS[0, 0] / stored["weights_scaling_factor"][0]
    stored["weight"][0, 0] += 1
    difference = compare(take_apart("W8A8_SQ_PER_CHANNEL", stored, slice(0, 16)), WEIGHTS[:16])
    assert difference.is_wrong.sum() == 1
    weights = WEIGHTS[:16].copy()
    weights[0, 0] *= (np.floor(scaled) + 0.5001) / scaled  # as near to the edge as 16-bit factors cannot tell
    stored["weight"][0, 0] = int(np.floor(scaled))
    difference = compare(take_apart("W8A8_SQ_PER_CHANNEL", stored, slice(0, 16)), weights)
    assert not difference.is_equal[0, 0]
    assert not difference.is_wrong.any()


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (np.roll(np.arange(16), 3), "swapped-rows"),
        (np.arange(16) + 4, "cut-mid-head"),
        (np.arange(16) + 16, "wrong-shard"),
    ],
)
def test_rows_from_elsewhere_are_recognised(rows: np.ndarray, kind: str) -> None:
    block = take_apart(None, {"weight": WEIGHTS[rows]}, slice(0, 16))
    around = Surroundings(candidates={"q_proj": WEIGHTS}, other_layers=(), head_size=8, is_cut_by_heads=True)
    weights = WEIGHTS[:16]
    assert diagnose(block, weights, compare(block, weights), PART, around).kind == kind


def test_rows_that_are_nowhere_are_wrong_values() -> None:
    other = np.random.default_rng(1).standard_normal((16, 64)).astype(np.float32)
    block = take_apart(None, {"weight": other}, slice(0, 16))
    around = Surroundings(candidates={"q_proj": WEIGHTS}, other_layers=(), head_size=8, is_cut_by_heads=True)
    fault = diagnose(block, WEIGHTS[:16], compare(block, WEIGHTS[:16]), PART, around)
    assert (fault.kind, fault.what.split(",")[0]) == (
        "wrong-values",
        "1024 of 1024 numbers are not those of the model",
    )


def test_equal_logits_have_no_divergence() -> None:
    logits = WEIGHTS.reshape(2, 16, 64)
    comparison = compare_logits(np.pad(logits, ((0, 0), (0, 0), (0, 3))), logits, QUANTIZATION)
    assert (comparison.max_abs_error, comparison.kl, comparison.top1_agreement) == (0, 0, 1)
    assert comparison.is_within


def test_logits_that_are_no_numbers_are_not_within_anything() -> None:
    logits = WEIGHTS.reshape(2, 16, 64)
    assert not compare_logits(np.full_like(logits, np.nan), logits, QUANTIZATION).is_within


def test_the_text_says_the_worst_first() -> None:
    verification = Verification(
        ok=False,
        max_abs_logit_error=1.5,
        kl=0.25,
        top1_agreement=0.5,
        findings=(error("wrong-scale", "rank0.safetensors q", "is twice too large"),),
        compared_with="the model",
        tolerance=0.5,
        max_layer_error=None,
        layer_tolerance=None,
        exact_layers=None,
        codes=Codes(compared=10, equal=9, within_rounding=1),
        algo="FP8",
        kv_cache_algo=None,
        ranks=2,
        seconds=1.0,
    )
    assert verification_text(verification).splitlines() == [
        "NOT ok: FP8, 2 ranks",
        "numbers   9 of 10 equal those of the model, 1 within the rounding of 16-bit scales",
        "logits    largest error 1.5 (tolerated 0.5), against the model",
        "          KL 0.25, the same most likely token 50.0%",
        "error   wrong-scale: rank0.safetensors q: is twice too large",
        "        mend: quantize the model again",
    ]
