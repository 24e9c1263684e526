"""Parallel sizes that would cut a head, a layer or an MLP column are refused with those that fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slipstream.errors import SpecError
from slipstream.quantize.sharding import ModelShape, check_sharding, pp_sizes, tp_sizes

SMOLLM2 = ModelShape(attention_heads=9, kv_heads=3, intermediate_size=1536, layers=30)
LLAMA = ModelShape(attention_heads=8, kv_heads=2, intermediate_size=1024, layers=4)


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
        (SMOLLM2, 1, 4, "30 layers", "engine.pp_size to one of 1, 2, 3, 5"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(
    shape: ModelShape, tp_size: int, pp_size: int, message: str, mend: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        check_sharding(shape, tp_size=tp_size, pp_size=pp_size)
    assert mend in caught.value.mend


def test_sizes_that_fit_pass() -> None:
    check_sharding(SMOLLM2, tp_size=3, pp_size=2)
