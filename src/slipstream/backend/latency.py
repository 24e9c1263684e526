"""What every step and every request adds to the latency and token figures, kept until somebody takes it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

from slipstream.backend.messages import Ending
from slipstream.backend.stream import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One request that was answered to its end."""

    ending: Ending
    prompt_tokens: int
    generated_tokens: int
    e2e_s: float  # from its arrival to its last response
    queue_s: float | None = None  # to the first step that it took part in; this and the next: none without a token
    prefill_s: float | None = None  # from there to the first token
    decode_s: float | None = None  # from the first token to the last


class Buckets:
    """A histogram: how many values lay at or under each of the `bounds`, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[int]:
        """Values at or under each bound, and all of them."""
        total, counts = 0, []
        for count in self._counts:
            total += count
            counts.append(total)
        return counts


class Tally:
    """Written by the thread that delivers; another one reads the totals and takes the lists."""

    def __init__(self, gap_bounds_s: tuple[float, ...]) -> None:
        self.prompt_tokens = 0  # of the requests whose prompt was computed
        self.cached_tokens = 0  # of them, found in the KV cache
        self.reused_blocks = 0
        self.generated_tokens = 0
        self.preemptions = 0
        self.failures = 0
        self.gaps_s = Buckets(gap_bounds_s)  # between the tokens of a stream; tokens of one step count once
        self._first_tokens_s: deque[float] = deque()
        self._ended: deque[Ended] = deque()

    def begin(self, stream: Stream) -> None:
        """The prompt of `stream` is computed."""
        self.prompt_tokens += len(stream.request.prompt_ids)
        self.cached_tokens += stream.start.cached_tokens
        self.reused_blocks += stream.start.reused_blocks

    def note(self, stream: Stream, *, tokens: int, before_ns: int) -> None:
        """A step gave `stream` so many `tokens`; it had the last one `before_ns`, 0 if they are its first."""
        if not tokens:
            return
        self.generated_tokens += tokens
        timings = stream.timings
        if before_ns:
            self.gaps_s.add((timings.last_token_ns - before_ns) / 1e9)
            return
        self._first_tokens_s.append((timings.first_token_ns - timings.arrival_ns) / 1e9)

    def end(self, stream: Stream) -> None:
        """`stream` has got its last response."""
        assert stream.ending is not None
        timings = stream.timings
        is_begun = timings.first_token_ns > 0
        self._ended.append(
            Ended(
                ending=stream.ending,
                prompt_tokens=len(stream.request.prompt_ids),
                generated_tokens=stream.tokens_generated,
                e2e_s=(time.monotonic_ns() - timings.arrival_ns) / 1e9,
                queue_s=(timings.first_scheduled_ns - timings.arrival_ns) / 1e9 if is_begun else None,
                prefill_s=(timings.first_token_ns - timings.first_scheduled_ns) / 1e9 if is_begun else None,
                decode_s=(timings.last_token_ns - timings.first_token_ns) / 1e9 if is_begun else None,
            )
        )

    def take_first_tokens_s(self) -> list[float]:
        """Times to first token since the last call."""
        return [self._first_tokens_s.popleft() for _ in range(len(self._first_tokens_s))]

    def take_ended(self) -> list[Ended]:
        """Requests that were answered since the last call."""
        return [self._ended.popleft() for _ in range(len(self._ended))]
