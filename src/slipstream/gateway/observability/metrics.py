"""The gateway's counters, gauges and histograms, for every part of it to write and Prometheus to read."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from slipstream.gateway.observability.families import FAMILIES, GAPS, Family

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_Child = Counter | Gauge | Histogram
_BY_NAME = {family.name: family for family in FAMILIES}


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of a gauge that is read when somebody asks, and its labels in the order of its family."""

    value: float
    labels: tuple[str, ...] = ()


class Metrics:
    """All families of one gateway. For the thread of the event loop.

    A part takes a family of families.py and says what happened::

        metrics.count(families.CACHE, "response", "hit")
        metrics.set(families.CACHE_BYTES, size, "response")
        metrics.watch(families.BACKEND_STATE, lambda: [Reading(1, ("a:8001", "up"))])
    """

    def __init__(self) -> None:
        # A second series for each, of use to nobody who reads the page regularly.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._gaps: dict[str, Gaps] = {}
        self._registry.register(_GapCollector(self._gaps))
        self._families = {family.name: _made(family, self._registry) for family in FAMILIES if family is not GAPS}
        self._children: dict[tuple[str, tuple[str, ...]], _Child] = {}
        self._watched: dict[str, list[Callable[[], Iterable[Reading]]]] = {}

    def count(self, family: Family, *labels: str, by: float = 1.0) -> None:
        """Add to a counter."""
        counter = self._child(family, labels)
        assert isinstance(counter, Counter)
        counter.inc(by)

    def set(self, family: Family, value: float, *labels: str) -> None:
        """Set a gauge."""
        gauge = self._child(family, labels)
        assert isinstance(gauge, Gauge)
        gauge.set(value)

    def add(self, family: Family, change: float, *labels: str) -> None:
        """Raise or lower a gauge."""
        gauge = self._child(family, labels)
        assert isinstance(gauge, Gauge)
        gauge.inc(change)

    def observe(self, family: Family, value: float, *labels: str) -> None:
        """Add one value to a histogram."""
        histogram = self._child(family, labels)
        assert isinstance(histogram, Histogram)
        histogram.observe(value)

    def watch(self, family: Family, read: Callable[[], Iterable[Reading]]) -> None:
        """Let a gauge or a counter be what `read` gives when the page is asked for; what it no longer gives is gone.

        Several readings with the same labels add up: a configuration that was replaced goes on with its requests.
        """
        self._watched.setdefault(family.name, []).append(read)

    def unwatch(self, family: Family, read: Callable[[], Iterable[Reading]]) -> None:
        """Ask `read` no more."""
        self._watched[family.name].remove(read)

    @property
    def models(self) -> list[str]:
        """Models that were asked so far."""
        return list(self._gaps)

    def gaps(self, model: str) -> Gaps:
        """The time between chunks of `model`: the one value that comes as often as chunks do."""
        return self._gaps.setdefault(model, Gaps())

    def page(self) -> bytes:
        """Everything, in Prometheus' text format."""
        for name, watchers in self._watched.items():
            family = _BY_NAME[name]
            self._forget(family)
            for reading in [reading for read in watchers for reading in read()]:
                child = self._child(family, reading.labels)
                assert not isinstance(child, Histogram)
                child.inc(reading.value)
        return generate_latest(self._registry)

    def _child(self, family: Family, labels: tuple[str, ...]) -> _Child:
        key = family.name, labels
        if (child := self._children.get(key)) is None:
            made = self._families[family.name]
            child = self._children[key] = made.labels(*labels) if family.labels else made
        return child

    def _forget(self, family: Family) -> None:
        for key in [key for key in self._children if key[0] == family.name]:
            del self._children[key]
        if family.labels:
            self._families[family.name].clear()
        else:
            self.set(family, 0)


class Gaps:
    """A histogram that costs a quarter of a microsecond a value."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(GAPS.buckets) + 1)  # by bucket, not summed up
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one gap."""
        self.counts[bisect_left(GAPS.buckets, seconds)] += 1
        self.sum_s += seconds


class _GapCollector(Collector):
    def __init__(self, gaps: dict[str, Gaps]) -> None:
        self._gaps = gaps

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(GAPS.name, GAPS.description, labels=GAPS.labels)
        for model, gaps in self._gaps.items():
            family.add_metric((model, "0"), _buckets(gaps), sum_value=gaps.sum_s)
        yield family


def _buckets(gaps: Gaps) -> list[tuple[str, float]]:
    bounds, total, buckets = [*(str(bound) for bound in GAPS.buckets), "+Inf"], 0, []
    for bound, count in zip(bounds, gaps.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def _made(family: Family, registry: CollectorRegistry) -> _Child:
    if family.kind == "counter":
        return Counter(family.name, family.description, family.labels, registry=registry)
    if family.kind == "gauge":
        return Gauge(family.name, family.description, family.labels, registry=registry)
    return Histogram(family.name, family.description, family.labels, registry=registry, buckets=family.buckets)
