"""The gateway's own metrics: what parts write is what Prometheus reads."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from slipstream.gateway.observability import families
from slipstream.gateway.observability.metrics import Metrics, Reading


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """The sample with this name and these labels; None where there is none."""
    for family in text_string_to_metric_families(metrics.page().decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels.items() >= labels.items():
                return float(sample.value)
    return None


def test_a_counter_adds_up_by_its_labels() -> None:
    metrics = Metrics()
    metrics.count(families.CACHE, "response", "hit")
    metrics.count(families.CACHE, "response", "hit", by=2)
    metrics.count(families.CACHE, "response", "miss")
    assert value(metrics, families.CACHE.name, cache="response", result="hit") == 3
    assert value(metrics, families.CACHE.name, cache="response", result="miss") == 1


def test_a_gauge_is_set_and_moved() -> None:
    metrics = Metrics()
    metrics.set(families.CACHE_BYTES, 10, "a")
    metrics.add(families.CACHE_BYTES, -4, "a")
    assert value(metrics, families.CACHE_BYTES.name, cache="a") == 6


def test_a_watched_gauge_is_read_for_each_page_and_forgets_what_is_gone() -> None:
    metrics, readings = Metrics(), [Reading(1, ("m", "a", "up"))]
    metrics.watch(families.BACKEND_STATE, lambda: readings)
    assert value(metrics, families.BACKEND_STATE.name, model="m", backend="a", state="up") == 1
    readings[:] = [Reading(1, ("m", "a", "down"))]
    assert value(metrics, families.BACKEND_STATE.name, model="m", backend="a", state="up") is None
    assert value(metrics, families.BACKEND_STATE.name, model="m", backend="a", state="down") == 1


@pytest.mark.parametrize(("seconds", "bound"), [(0.01, "0.01"), (0.0100001, "0.025"), (79.0, "80.0"), (81.0, "+Inf")])
def test_a_gap_falls_into_the_bucket_that_ends_at_or_above_it(seconds: float, bound: str) -> None:
    metrics = Metrics()
    metrics.gaps("m").add(seconds)
    bounds = [*(str(limit) for limit in families.GAPS.buckets), "+Inf"]
    counted = [value(metrics, f"{families.GAPS.name}_bucket", model_name="m", le=le) for le in bounds]
    first = bounds.index(bound)
    assert counted == [0.0] * first + [1.0] * (len(bounds) - first)
    assert value(metrics, f"{families.GAPS.name}_sum", model_name="m") == seconds


def test_no_page_has_the_times_at_which_series_were_made() -> None:
    metrics = Metrics()
    metrics.count(families.CACHE, "response", "hit")
    assert b"_created" not in metrics.page()


def test_who_watches_last_is_asked() -> None:
    metrics = Metrics()
    metrics.watch(families.RUNNING, lambda: [Reading(1, ("m", "0")), Reading(1, ("old", "0"))])
    metrics.watch(families.RUNNING, lambda: [Reading(2, ("m", "0"))])
    assert value(metrics, families.RUNNING.name, model_name="m") == 2
    assert value(metrics, families.RUNNING.name, model_name="old") is None
