"""A generation in flight: iterator, outputs and abort in one object, as the executor hands it out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from tensorrt_llm.sampling_params import SamplingParams


class RequestError(RuntimeError):
    """A request that the executor refuses."""


@dataclass
class CompletionOutput:
    """All of one output so far."""

    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    request_perf_metrics: Any = None


class GenerationResult:
    """Yields itself at every step, its output grown meanwhile; a generation that is not streamed yields at its end."""

    def __init__(
        self,
        pieces: Iterator[str],
        sampling: SamplingParams,
        *,
        streaming: bool,
        pause_s: float,
        is_deaf: bool,
        finds_stops: bool,
        on_abort: Callable[[], None],
    ) -> None:
        asyncio.get_running_loop()  # as the real one, it can be iterated only on the loop that it was made on
        self.outputs = [CompletionOutput()]
        self.finished = False
        self._pieces = pieces
        self._sampling = sampling
        self._streaming = streaming
        self._pause_s = pause_s
        self._is_deaf = is_deaf
        self._finds_stops = finds_stops
        self._on_abort = on_abort
        self._is_aborted = False

    def abort(self) -> None:
        self._on_abort()
        self._is_aborted = not self._is_deaf

    def __aiter__(self) -> GenerationResult:
        return self

    async def __anext__(self) -> GenerationResult:
        if self.finished:
            raise StopAsyncIteration
        while not self.finished:
            await asyncio.sleep(self._pause_s)
            self._step()
            if self._streaming:
                break
        return self

    def _step(self) -> None:
        output = self.outputs[0]
        if self._is_aborted:
            self._end("cancelled")
            return
        piece = next(self._pieces, None)
        if piece is None:
            self._end("stop", 2)
            return
        # A character whose bytes are not all there is a replacement character until they are.
        output.text = output.text.removesuffix("\ufffd") + piece
        output.token_ids.append(len(output.token_ids))
        if self._sampling.given.get("logprobs") is not None:
            output.cumulative_logprob = -0.5 * len(output.token_ids)
        found = next((stop for stop in self._sampling.stops if stop in output.text), None)
        if found is not None and self._finds_stops:
            output.text = output.text[: output.text.index(found)]
            self._end("stop", found)
        elif len(output.token_ids) >= self._sampling.max_tokens:
            self._end("length")

    def _end(self, reason: str, stop_reason: int | str | None = None) -> None:
        output = self.outputs[0]
        output.finish_reason, output.stop_reason, self.finished = reason, stop_reason, True
        if self._sampling.given.get("return_perf_metrics"):
            output.request_perf_metrics = _metrics()


def _metrics() -> SimpleNamespace:
    moments = ("arrival_time", "first_scheduled_time", "first_token_time", "last_token_time")
    return SimpleNamespace(
        kv_cache_metrics=SimpleNamespace(
            num_reused_blocks=3,
            num_missed_blocks=1,
            num_new_allocated_blocks=2,
            num_total_allocated_blocks=5,
            kv_cache_hit_rate=0.75,
        ),
        timing_metrics=SimpleNamespace(
            **{name: timedelta(days=20, microseconds=index + 1) for index, name in enumerate(moments)}
        ),
        speculative_decoding=SimpleNamespace(acceptance_rate=0.5, total_accepted_draft_tokens=4, total_draft_tokens=8),
    )
