"""Triton's own series on the gateway's page: endpoint pickers look for `nv_trt_llm_*` at the port of the API."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

from slipstream.gateway.observability import families
from slipstream.gateway.observability.metrics import Metrics

_SHOWN = ("nv_trt_llm_", "nv_llm_", "vllm:")
_OWN = frozenset(family.name.removesuffix("_total") for family in families.FAMILIES)
_TIMEOUT_S = 1.0
_MOST_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonPage:
    """Where one Triton tells of itself."""

    address: str  # host:port of its metrics
    model: str  # that it serves, by the gateway's name
    backend: str  # its name among those of the model


@dataclass(slots=True)
class _Read:
    page: TritonPage
    at_s: float = float("-inf")
    families: list[Metric] = field(default_factory=list)


class TritonMetrics:
    """Reads the pages of all Tritons, each at most once in `age_s`; one that does not answer has no series.

    Every series gets the labels `served_model` and, where a model has several Tritons, `backend`. Families that the
    gateway has itself are left out.
    """

    def __init__(self, pages: Sequence[TritonPage], metrics: Metrics, *, age_s: float) -> None:
        models = [page.model for page in pages]
        self._reads = [_Read(page) for page in pages]
        self._shared = {model for model in models if models.count(model) > 1}
        self._metrics = metrics
        self._age_s = age_s
        self._lock = asyncio.Lock()

    async def page(self) -> bytes:
        """Their series, in Prometheus' text format."""
        if not self._reads:
            return b""
        async with self._lock:  # who comes meanwhile gets the same
            await asyncio.gather(*(self._renew(read) for read in self._reads))
        registry = CollectorRegistry()
        registry.register(_Joined([read.families for read in self._reads]))
        return generate_latest(registry)

    async def _renew(self, read: _Read) -> None:
        if time.monotonic() - read.at_s < self._age_s:
            return
        labels = {"served_model": read.page.model}
        if read.page.model in self._shared:
            labels["backend"] = read.page.backend
        try:
            text = await asyncio.to_thread(_fetch, read.page.address)
            read.families = [_labelled(family, labels) for family in _wanted(text)]
            outcome = "ok"
        except (OSError, ValueError):  # nobody there, or no page of metrics
            read.families, outcome = [], "unreachable"
        read.at_s = time.monotonic()
        self._metrics.count(families.TRITON_SCRAPES, outcome)


class _Joined(Collector):
    """Several Tritons' families, each family once."""

    def __init__(self, pages: Collection[list[Metric]]) -> None:
        self._pages = pages

    def collect(self) -> Iterator[Metric]:
        joined: dict[str, Metric] = {}
        for family in (family for page in self._pages for family in page):
            if (known := joined.get(family.name)) is None:
                joined[family.name] = known = Metric(family.name, family.documentation, family.type)
            known.samples.extend(family.samples)
        yield from joined.values()


def _fetch(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=_TIMEOUT_S) as answer:
        content: bytes = answer.read(_MOST_BYTES)
    return content.decode()


def _wanted(text: str) -> Iterator[Metric]:
    for family in text_string_to_metric_families(text):
        if family.name.startswith(_SHOWN) and not _is_own(family.name):
            yield family


def _is_own(name: str) -> bool:
    # Triton's model writes the time between tokens as three counters, the gateway as one histogram.
    return name in _OWN or any(name.removesuffix(end) in _OWN for end in ("_bucket", "_sum", "_count"))


def _labelled(family: Metric, labels: dict[str, str]) -> Metric:
    family.samples = [sample._replace(labels={**sample.labels, **labels}) for sample in family.samples]
    return family
