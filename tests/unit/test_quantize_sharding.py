"""Parallel sizes that would cut a head, a layer, an MLP column or a scale's group are refused with those that fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slipstream.errors import SpecError
from slipstream.formats import Method, format_for
from slipstream.quantize.sharding import ModelShape, Parallel, check_sharding, padding_notes, pp_sizes, tp_sizes

SMOLLM2 = ModelShape(
    attention_heads=9,
    kv_heads=3,
    head_size=64,
    hidden_size=576,
    intermediate_size=1536,
    layers=30,
    vocab_size=49152,
)
LLAMA = ModelShape(
    attention_heads=8,
    kv_heads=2,
    head_size=64,
    hidden_size=512,
    intermediate_size=1024,
    layers=4,
    vocab_size=1000,
)
MIXTRAL = replace(LLAMA, experts=4)
GROUPS = {"int4_awq": 64, "w4a8_awq": 128}


def check(
    shape: ModelShape, method: Method = "fp8", *, tp_size: int = 1, pp_size: int = 1, moe_ep_size: int = 1
) -> None:
    parallel = Parallel(tp_size=tp_size, pp_size=pp_size, moe_ep_size=moe_ep_size)
    check_sharding(shape, parallel, format_for(method), GROUPS.get(method))


def test_smollm2_can_be_shared_by_one_or_three() -> None:
    assert tp_sizes(SMOLLM2) == (1, 3)


def test_kv_heads_are_repeated_where_ranks_outnumber_them() -> None:
    assert tp_sizes(LLAMA) == (1, 2, 4, 8)


def test_stages_hold_whole_layers() -> None:
    assert pp_sizes(SMOLLM2) == (1, 2, 3, 5, 6, 10, 15, 30)


@pytest.mark.parametrize(
    ("shape", "tp_size", "pp_size", "message", "mend"),
    [
        (SMOLLM2, 2, 1, "9 attention heads", "engine.tp_size to one of 1, 3"),
        (SMOLLM2, 9, 1, "MLP width", "1, 3"),
        (replace(LLAMA, attention_heads=12, kv_heads=4), 6, 1, "4 KV heads", "1, 2, 4"),
        (replace(LLAMA, attention_heads=6, kv_heads=6, intermediate_size=1536), 3, 1, "hidden size 512", "1, 2"),
        (SMOLLM2, 1, 4, "30 layers", "engine.pp_size to one of 1, 2, 3, 5"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(
    shape: ModelShape, tp_size: int, pp_size: int, message: str, mend: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        check(shape, tp_size=tp_size, pp_size=pp_size)
    assert mend in caught.value.mend


def test_sizes_that_fit_pass() -> None:
    check(SMOLLM2, tp_size=3, pp_size=2)


def test_smoothquant_cannot_repeat_kv_heads() -> None:
    check(LLAMA, "int8_sq", tp_size=2)
    with pytest.raises(SpecError, match="2 KV heads, and int8_sq has a scale per output row") as caught:
        check(LLAMA, "int8_sq", tp_size=4)
    assert caught.value.mend == "set engine.tp_size to one of 1, 2, or use another recipe, such as fp8 or int8_wo"


@pytest.mark.parametrize("method", ["none", "int8_wo", "fp8", "int4_awq", "nvfp4"])
def test_other_recipes_repeat_kv_heads(method: Method) -> None:
    check(LLAMA, method, tp_size=4)


def test_a_group_is_never_cut() -> None:
    check(LLAMA, "w4a8_awq", tp_size=4)
    with pytest.raises(SpecError, match=r"attention's output layer has 64 inputs .* group size 128") as caught:
        check(LLAMA, "w4a8_awq", tp_size=8)
    assert caught.value.mend.startswith("set engine.tp_size to one of 1, 2, 4")


def test_smollm2_has_groups_of_64_but_none_of_128() -> None:
    check(SMOLLM2, "int4_awq", tp_size=3)
    with pytest.raises(SpecError, match=r"576 inputs .* w4a8_awq has no other group size") as caught:
        check(SMOLLM2, "w4a8_awq")
    assert "int4_awq with groups of 64" in caught.value.mend


def test_a_group_size_that_would_fit_is_named() -> None:
    with pytest.raises(SpecError, match="group size 128") as caught:
        check_sharding(SMOLLM2, Parallel(tp_size=1), format_for("int4_awq"), 128)
    assert caught.value.mend.startswith("set group_size in the recipe to 64")


def test_blocks_of_nvfp4_are_never_cut() -> None:
    with pytest.raises(SpecError, match="group size 16"):
        check(replace(LLAMA, intermediate_size=1048), "nvfp4")


def test_what_tensorrt_llm_pads_is_noted() -> None:
    assert padding_notes(SMOLLM2, 3, format_for("int4_awq")) == ()
    assert padding_notes(replace(LLAMA, head_size=8), 4, format_for("int4_awq"))[0].startswith("qkv: 32 outputs")
    assert padding_notes(replace(LLAMA, head_size=8), 4, format_for("fp8")) == ()


@pytest.mark.parametrize(
    ("settings", "message", "mend"),
    [
        ({"moe_ep_size": 3, "tp_size": 4}, "must divide engine.tp_size", "one of 1, 2, 4"),
        ({"tp_size": 8}, "8 ranks cut each expert: .* would add empty experts", "one of 2, 4"),
        ({"method": "int8_sq"}, "experts, whose scales per output row", "fp8"),
    ],
)
def test_experts_that_the_export_would_misplace_are_refused(settings: dict[str, int], message: str, mend: str) -> None:
    check(MIXTRAL, tp_size=4, moe_ep_size=2)
    with pytest.raises(SpecError, match=message) as caught:
        check(MIXTRAL, **settings)  # type: ignore[arg-type]
    assert mend in caught.value.mend


def test_a_dense_model_has_no_experts_to_distribute() -> None:
    with pytest.raises(SpecError, match="the model has no experts"):
        check(LLAMA, tp_size=2, moe_ep_size=2)
