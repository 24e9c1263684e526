"""Layers that a recipe leaves out: patterns are checked against the model before it is loaded."""

from __future__ import annotations

import pytest

from slipstream.errors import SpecError
from slipstream.quantize.exclusions import check_exclusions


def check(*patterns: str, pp_size: int = 1, experts: int | None = None) -> frozenset[str]:
    return check_exclusions(patterns, layers=4, experts=experts, pp_size=pp_size)


def test_patterns_name_linear_layers() -> None:
    assert check() == frozenset()
    assert check("model.layers.1.mlp.down_proj") == {"model.layers.1.mlp.down_proj"}
    assert check("*.[02].mlp.down_proj") == {f"model.layers.{layer}.mlp.down_proj" for layer in (0, 2)}
    assert len(check("model.layers.0.*")) == 7


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("model.layers.7.mlp.down_proj",), "matches no linear layer"),
        (("*.q_proj",), "q_proj, self_attn.k_proj, self_attn.v_proj are fused .* only 1"),
        (("*.2.mlp.gate_proj",), "layer 2: mlp.gate_proj, mlp.up_proj are fused"),
        (("*",), "every linear layer is excluded"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(patterns: tuple[str, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check(*patterns)


def test_pipeline_stages_must_exclude_the_same_layers() -> None:
    assert len(check("*.[02].mlp.down_proj", pp_size=2)) == 2
    with pytest.raises(SpecError, match="stages would exclude different layers"):
        check("*.0.mlp.down_proj", pp_size=2)


def test_experts_are_all_in_one_format() -> None:
    with pytest.raises(SpecError, match="experts"):
        check("*.mlp.down_proj", experts=4)
