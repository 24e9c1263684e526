"""Intervals and tests, against published values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.quantize.accuracy.statistics import mcnemar, paired_difference, wilson


def test_wilson_interval_of_a_textbook_case() -> None:
    found = wilson(81, 263)  # Newcombe 1998, table I
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_wilson_interval_of_nothing_right_begins_at_zero_and_has_a_width() -> None:
    found = wilson(0, 20)  # Newcombe 1998, table I
    assert (found.low, found.high) == pytest.approx((0, 0.1611), abs=5e-5)


@given(items=st.integers(1, 2000), data=st.data())
def test_wilson_interval_holds_the_share_and_stays_within_zero_and_one(items: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, items))
    found = wilson(right, items)
    assert 0 <= found.low <= right / items + 1e-12
    assert right / items - 1e-12 <= found.high <= 1


@pytest.mark.parametrize(
    ("lost", "won", "p_value"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (1, 9, 22 / 1024), (9, 1, 22 / 1024)],
)
def test_mcnemar_is_a_fair_coin_for_every_changed_answer(lost: int, won: int, p_value: float) -> None:
    assert mcnemar(lost, won) == pytest.approx(p_value)


def test_mcnemar_of_thousands_of_changes_does_not_overflow() -> None:
    assert mcnemar(4000, 4000) == 1.0
    assert mcnemar(3500, 4500) < 1e-20


def test_paired_interval_of_many_losses_lies_below_zero() -> None:
    found = paired_difference(lost=40, won=10, items=500)
    assert found.low == pytest.approx(-0.0867, abs=5e-4)
    assert found.high == pytest.approx(-0.0328, abs=5e-4)


def test_paired_interval_of_no_change_is_around_zero_and_not_empty() -> None:
    found = paired_difference(lost=0, won=0, items=500)
    assert found.low == pytest.approx(-found.high)
    assert 0 < found.high < 0.005
