"""The engine's latencies and totals on Triton's /metrics under vLLM's names, for dashboards and endpoint pickers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from slipstream.backend import vllm_families as families
from slipstream.backend.engine import Engine
from slipstream.backend.latency import Ended
from slipstream.backend.messages import Ending
from slipstream.backend.pipeline import KV_BLOCK_TOKENS
from slipstream.backend.triton_metrics import triton_family
from slipstream.backend.vllm_families import VllmFamily

_GAPS_PERIOD_S = 1.0


class VllmMetrics:
    """Written by one thread, which tells Triton of what has changed.

    Each call of Triton costs a round trip to the server. So counters take what has come together since the last
    refresh, histograms take a few values a request, and the time between two tokens, of which there are as many as
    tokens, is counted here: its histogram is written as counters, bucket by bucket, once a second.
    """

    def __init__(self, *, model: str, max_seq_len: int, kv_blocks: int) -> None:
        self._labels = {"model_name": model, "engine": "0"}
        self._families: list[Any] = []
        self._prompts = families.request_tokens("prompt", max_seq_len)
        self._outputs = families.request_tokens("generation", max_seq_len)
        written = (*families.GAUGES, *families.COUNTERS, *families.LATENCIES, self._prompts, self._outputs)
        self._metrics = {family.name: self._new_metrics(family)[""] for family in written}
        self._successes = self._new_metrics(families.SUCCESS)
        self._gaps = [metric for family in families.GAPS for metric in self._new_metrics(family).values()]
        cache = {"block_size": str(KV_BLOCK_TOKENS), "num_gpu_blocks": str(kv_blocks)}
        self._cache_info = self._new_metrics(families.CACHE_INFO, cache)[""]
        self._cache_info.set(1)
        self._gauged: dict[str, float] = {}
        self._counted: dict[str, float] = {}
        self._gaps_written = [0.0] * len(self._gaps)
        self._failures = 0
        self._next_gaps_s = 0.0

    def refresh(self, engine: Engine, *, running: float, kv_usage: float) -> None:
        """Write what has changed."""
        streams = len(engine.streams())
        self._set(families.RUNNING, running)
        self._set(families.WAITING, max(streams - running, 0))
        self._set(families.KV_USAGE, kv_usage)
        for family, total in _totals(engine).items():
            self._count(family, total)
        for seconds in engine.tally.take_first_tokens_s():
            self._observe(families.TTFT, seconds)
        for ended in engine.tally.take_ended():
            self._end(ended)
        failures = engine.tally.failures
        if failures > self._failures:
            self._successes[families.REASONS[Ending.FAILED]].increment(failures - self._failures)
            self._failures = failures
        self._write_gaps(engine, is_idle=not streams)

    def close(self) -> None:
        """Give the metrics back."""
        del self._cache_info
        self._metrics.clear()
        self._successes.clear()
        self._gaps.clear()
        self._families.clear()

    def _new_metrics(self, family: VllmFamily, more: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
        """The metrics of a family by the value of its label."""
        made = triton_family(family.name, family.description, family.kind)
        self._families.append(made)
        buckets = {"buckets": list(family.buckets)} if family.kind == "histogram" else {}
        labels = {**self._labels, **more}
        return {
            value: made.Metric(labels=labels | ({family.label: value} if family.label else {}), **buckets)
            for value in family.values
        }

    def _set(self, family: VllmFamily, value: float) -> None:
        if self._gauged.get(family.name) != value:
            self._metrics[family.name].set(value)
            self._gauged[family.name] = value

    def _count(self, family: VllmFamily, total: float) -> None:
        risen = total - self._counted.get(family.name, 0)
        if risen:
            self._metrics[family.name].increment(risen)
            self._counted[family.name] = total

    def _observe(self, family: VllmFamily, value: float) -> None:
        self._metrics[family.name].observe(value)

    def _end(self, ended: Ended) -> None:
        self._successes[families.REASONS[ended.ending]].increment(1)
        self._observe(self._prompts, ended.prompt_tokens)
        self._observe(self._outputs, ended.generated_tokens)
        self._observe(families.E2E, ended.e2e_s)
        if ended.queue_s is None or ended.prefill_s is None or ended.decode_s is None:
            return
        self._observe(families.QUEUE, ended.queue_s)
        self._observe(families.PREFILL, ended.prefill_s)
        self._observe(families.DECODE, ended.decode_s)
        self._observe(families.INFERENCE, ended.prefill_s + ended.decode_s)
        if ended.generated_tokens > 1:
            self._observe(families.TIME_PER_TOKEN, ended.decode_s / (ended.generated_tokens - 1))

    def _write_gaps(self, engine: Engine, *, is_idle: bool) -> None:
        now = time.monotonic()
        if now < self._next_gaps_s and not is_idle:
            return
        self._next_gaps_s = now + _GAPS_PERIOD_S
        gaps = engine.tally.gaps_s
        counts = gaps.cumulative()
        for index, value in enumerate([*counts, gaps.sum, counts[-1]]):
            if value > self._gaps_written[index]:
                self._gaps[index].increment(value - self._gaps_written[index])
                self._gaps_written[index] = value


def _totals(engine: Engine) -> Mapping[VllmFamily, int]:
    tally = engine.tally
    return {
        families.PROMPT_TOKENS: tally.prompt_tokens,
        families.GENERATED_TOKENS: tally.generated_tokens,
        families.PREFIX_QUERIES: tally.prompt_tokens,
        families.PREFIX_HITS: tally.cached_tokens,
        families.PREEMPTIONS: tally.preemptions,
        families.DRAFT_TOKENS: engine.draft_tokens,
        families.ACCEPTED_TOKENS: engine.accepted_draft_tokens,
    }
