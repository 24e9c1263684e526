"""What the model and its step loop, which runs in a process of its own, say to each other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from slipstream.backend.beams import Beam, Beams
from slipstream.backend.requests import Penalties, Sampling, StopRules


class Ending(Enum):
    """Why a generation is over."""

    END_ID = "end_id"
    LENGTH = "length"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Generate:
    """To the loop: continue a prompt. `handle` is unique for the life of the model."""

    handle: int
    prompt_ids: list[int]
    sampling: Sampling | None
    penalties: Penalties
    stop: StopRules
    bad_texts: tuple[str, ...]  # of the bad words: the pipeline is held to a grammar without them
    log_probs: bool
    beams: Beams | None = None
    stop_texts: tuple[str, ...] = ()  # with beams: the pipeline watches for them


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the loop: end this generation now; its `Tokens` with an ending still come."""

    handle: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """From the loop: what one generation got in one step."""

    handle: int
    ids: list[int]
    log_probs: list[float] | None = None  # one each id, natural logarithm
    ending: Ending | None = None
    failure: str = ""  # text for the client when the ending is FAILED
    beams: tuple[Beam, ...] = ()  # of a beam search that is over, best first; it has no `ids` and `log_probs`


@dataclass(frozen=True, slots=True)
class Ready:
    """From the loop, once: the engine is loaded."""

    kv_cache_bytes: int


@dataclass(frozen=True, slots=True)
class Step:
    """From the loop: what one step, or a change between two steps, brought.

    `kv_cache_usage` is 0 when nothing runs: the prefix cache of a drained pipeline does not count as used.
    """

    tokens: list[Tokens]
    kv_cache_usage: float  # share of the KV cache that running requests hold, 0..1
    paused_requests: int | None = None  # they gave their KV blocks up to others; none between two steps


@dataclass(frozen=True, slots=True)
class Broken:
    """From the loop: the engine cannot be opened; the process ends."""

    reason: str


ToLoop: TypeAlias = Generate | Cancel
FromLoop: TypeAlias = Ready | Step | Broken
