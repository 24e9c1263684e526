"""Which layers with outliers are left in 16 bits."""

from __future__ import annotations

from slipstream.quantize.outliers import choose
from slipstream.quantize.recipe_schema import Outliers

LAYERS = 10  # 70 linear layers
LIMITS = Outliers(ratio=10, max_share=0.1)


def down(layer: int) -> str:
    return f"model.layers.{layer}.mlp.down_proj"


def ratios(**large: float) -> dict[str, float]:
    """Layers as `l3=50`; all others have none."""
    return {down(layer): large.get(f"l{layer}", 3.0) for layer in range(LAYERS)}


def test_a_layer_from_the_ratio_on_is_left_out() -> None:
    assert choose(ratios(l3=10.0, l4=9.9), LIMITS, pp_size=1, layers=LAYERS) == (down(3),)


def test_the_worst_come_first_and_no_more_than_the_share() -> None:
    every = {down(layer): 100.0 + layer for layer in range(LAYERS)}
    assert choose(every, LIMITS, pp_size=1, layers=LAYERS) == tuple(down(layer) for layer in (9, 8, 7, 6, 5, 4, 3))
    assert choose(every, LIMITS.model_copy(update={"max_share": 0.0}), pp_size=1, layers=LAYERS) == ()


def test_the_stages_of_a_pipeline_leave_out_the_same() -> None:
    found = choose(ratios(l1=50.0), LIMITS, pp_size=2, layers=LAYERS)
    assert sorted(found) == [down(1), down(6)]


def test_a_pair_that_does_not_fit_the_share_leaves_room_for_a_later_one() -> None:
    limits = LIMITS.model_copy(update={"max_share": 0.02})  # one layer of 70
    assert choose(ratios(l1=50.0), limits, pp_size=2, layers=LAYERS) == ()
