"""Admission: which of the waiting requests begin, by places in the batch and by blocks of the KV cache.

Triton's queue does not bound a decoupled model, and the pipeline takes every request that it is given: those that find
no room then push each other out of the cache. So a request begins only when its blocks are free beside those that run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from slipstream.backend.messages import Generate
from slipstream.backend.pipeline import KV_BLOCK_TOKENS
from slipstream.backend.requests import GenerationRequest

MOST_PASSES = 16  # requests that may begin before the oldest that waits, because they fit and it does not


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the engine holds at once, and how much of it a request sets aside when it begins."""

    max_requests: int
    kv_blocks: int
    reserves_output: bool  # the whole output (guaranteed_no_evict), or its first block (max_utilization)

    def at_begin(self, size: Size) -> int:
        """KV blocks that must be free when a request begins; beams tell nothing of their growth, so all of theirs."""
        if self.reserves_output or size.beams > 1:
            return size.blocks
        return blocks_of(size.prompt_tokens + min(size.output_tokens, KV_BLOCK_TOKENS))

    def refusal(self, size: Size) -> str:
        """Why a request could never run to its end, even alone; empty when it could."""
        if size.blocks <= self.kv_blocks:
            return ""
        each, fewer = (f" in each of {size.beams} beams", " or beams") if size.beams > 1 else ("", "")
        return (
            f"the prompt has {size.prompt_tokens} tokens and the output up to {size.output_tokens}{each}, which takes"
            f" {size.blocks} KV blocks of {KV_BLOCK_TOKENS} tokens, the KV cache has {self.kv_blocks}: ask for fewer"
            f" tokens{fewer}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a request may come to."""

    prompt_tokens: int
    output_tokens: int
    beams: int = 1

    @property
    def blocks(self) -> int:
        """KV blocks that it takes in the end; beams share those that the prompt fills."""
        shared = self.prompt_tokens // KV_BLOCK_TOKENS
        return shared + self.beams * (blocks_of(self.prompt_tokens + self.output_tokens) - shared)


def size_of(request: GenerationRequest | Generate) -> Size:
    """The size of a request, as its client or the step loop has it."""
    return Size(
        prompt_tokens=len(request.prompt_ids),
        output_tokens=request.stop.max_new_tokens,
        beams=1 if request.beams is None else request.beams.width,
    )


def blocks_of(tokens: int) -> int:
    """KV blocks that hold `tokens`."""
    return -(-tokens // KV_BLOCK_TOKENS)


@dataclass(slots=True)
class _Holding:
    tokens: int
    blocks: int


@dataclass(slots=True)
class Room:
    """Places and KV blocks that the running requests hold."""

    capacity: Capacity
    _holdings: dict[int, _Holding] = field(default_factory=dict)
    _blocks: int = 0
    _leaving: list[int] = field(default_factory=list)

    @property
    def has_place(self) -> bool:
        """Fewer requests run than may, whatever they need of the KV cache."""
        return len(self._holdings) < self.capacity.max_requests

    def take_for(self, request: Generate) -> bool:
        """Begin a request, if it fits."""
        return self.take(request.handle, size_of(request))

    def take(self, handle: int, size: Size) -> bool:
        """Begin what is of this size, if it fits."""
        blocks = self.capacity.at_begin(size)
        if not self.has_place or self._blocks + blocks > self.capacity.kv_blocks:
            return False
        self._holdings[handle] = _Holding(size.prompt_tokens, blocks)
        self._blocks += blocks
        return True

    def grow(self, handle: int, tokens: int) -> None:
        """Note the output of a request whose output was not set aside when it began."""
        if self.capacity.reserves_output or handle not in self._holdings:
            return
        holding = self._holdings[handle]
        holding.tokens += tokens
        more = blocks_of(holding.tokens) - holding.blocks
        if more > 0:
            holding.blocks += more
            self._blocks += more

    def give_back(self, handle: int) -> None:
        """End a request that has left the pipeline; one that holds nothing is no error."""
        holding = self._holdings.pop(handle, None)
        if holding is not None:
            self._blocks -= holding.blocks

    def leave(self, handle: int) -> None:
        """End a request that was cancelled: the pipeline frees its blocks at the end of the next step."""
        self._leaving.append(handle)

    @property
    def is_being_left(self) -> bool:
        """Blocks are freed by the next step."""
        return bool(self._leaving)

    def end_step(self) -> None:
        """A step is over: what was cancelled before it is free."""
        for handle in self._leaving:
            self.give_back(handle)
        self._leaving.clear()

    def clear(self) -> None:
        """Nothing runs."""
        self._holdings.clear()
        self._leaving.clear()
        self._blocks = 0


class WaitingLine:
    """Requests in the order they came.

    A request that fits may pass an older one that does not, so that a large request does not hold up small ones; but
    after `MOST_PASSES` nobody passes the oldest any more, so that the small ones do not hold it up for ever.
    """

    def __init__(self) -> None:
        self._requests: deque[Generate] = deque()
        self._passes = 0  # of the oldest

    def __len__(self) -> int:
        return len(self._requests)

    def push(self, request: Generate) -> None:
        """Join the end."""
        self._requests.append(request)

    def remove(self, handle: int) -> bool:
        """Leave the line; false if no such request waits."""
        place = next((place for place, request in enumerate(self._requests) if request.handle == handle), None)
        if place is None:
            return False
        self._take_out(place)
        return True

    def next_fitting(self, room: Room) -> Generate | None:
        """The next request to begin, which has taken its room; none when nobody may begin."""
        for place, request in enumerate(self._requests):
            if not room.has_place or (place and self._passes >= MOST_PASSES):
                return None
            if room.take_for(request):
                self._passes += place > 0
                self._take_out(place)
                return request
        return None

    def _take_out(self, place: int) -> None:
        if place == 0:
            self._passes = 0
        del self._requests[place]


def count_waiting(requests: Iterable[GenerationRequest], capacity: Capacity) -> int:
    """How many of the requests in flight, oldest first, wait for the others."""
    room = Room(capacity)
    return sum(not room.take(place, size_of(request)) for place, request in enumerate(requests))
