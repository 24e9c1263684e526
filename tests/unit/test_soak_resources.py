"""What counts as growth: a slope behind the warm-up, over all servers of a run, each with its own level."""

from __future__ import annotations

import pytest

from slipstream.perf.soak_resources import Growth, Sample, growths


def samples(*levels: float, per_minute: float = 0.0) -> list[Sample]:
    """Five minutes of each server, a sample every ten seconds; it warms up for one minute."""
    return [
        Sample(
            role="stub",
            generation=number,
            at_s=1000 * number + at_s,
            values={"rss_mib": level + per_minute * at_s / 60 - max(0, 60 - at_s)},
        )
        for number, level in enumerate(levels)
        for at_s in range(0, 300, 10)
    ]


def growth(rows: list[Sample]) -> Growth:
    [found] = growths(rows, 60)
    return found


def test_another_level_after_a_restart_and_a_warm_up_are_no_growth() -> None:
    found = growth(samples(80, 120, 90))
    assert found.per_minute == pytest.approx(0, abs=1e-6)
    assert found.is_flat


def test_a_leak_is_found_over_restarts() -> None:
    found = growth(samples(80, 120, 90, per_minute=6))
    assert found.per_minute == pytest.approx(6, abs=1e-3)
    assert not found.is_flat


def test_a_step_of_an_allocator_is_no_leak() -> None:
    rows = samples(80)
    rows[-1].values["rss_mib"] += 10
    assert growth(rows).is_flat
