"""What the model and its step loop, which runs in a process of its own, say to each other."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from slipstream.backend.beams import Beam, Beams
from slipstream.backend.requests import Penalties, Sampling, StopRules
from slipstream.backend.speculation import Wish


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
    speculation: Wish = "off"
    beams: Beams | None = None
    stop_texts: tuple[str, ...] = ()  # with beams: the pipeline watches for them


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the loop: end this generation now; its `Tokens` with an ending still come."""

    handle: int


@dataclass(slots=True, kw_only=True)
class Start:
    """How a generation began; see kv_mirror.py, which fills it in."""

    scheduled_ns: int = 0  # begin of the first step that it took part in, on the steady clock; 0 before
    cached_tokens: int = 0  # of the prompt, that need not be computed
    reused_blocks: int = 0  # of the prompt, found in the KV cache
    new_blocks: int = 0  # taken for the prompt, that held nothing
    taken_blocks: int = 0  # taken for the prompt, those included that were overwritten


@dataclass(frozen=True, slots=True)
class Tokens:
    """From the loop: what one generation got in one step."""

    handle: int
    ids: list[int]
    log_probs: list[float] | None = None  # one each id, natural logarithm
    ending: Ending | None = None
    failure: str = ""  # text for the client when the ending is FAILED
    start: Start | None = None  # with the first ids
    drafted: int = 0  # tokens that speculation proposed for these
    accepted: int = 0  # and those of them that were right
    beams: tuple[Beam, ...] = ()  # of a beam search that is over, best first; it has no `ids` and `log_probs`


@dataclass(frozen=True, slots=True)
class Ready:
    """From the loop, once: the engine is loaded."""

    kv_cache_bytes: int


@dataclass(frozen=True, slots=True)
class Begun:
    """A request waits no longer: the pipeline has it."""

    handle: int
    at_ns: int  # on the steady clock, which all processes share


@dataclass(frozen=True, slots=True)
class Step:
    """From the loop: what one step, or a change between two steps, brought.

    `kv_cache_usage` is 0 when nothing runs: the prefix cache of a drained pipeline does not count as used.
    """

    tokens: list[Tokens]
    kv_cache_usage: float  # share of the KV cache that running requests hold, 0..1
    paused_requests: int | None = None  # they gave their KV blocks up to others; none between two steps
    newly_paused: int = 0  # those of them that had a token in the step before
    speculating: int = 0  # requests that speculate
    begun: tuple[Begun, ...] = ()
    ended_ns: int = field(default_factory=time.monotonic_ns)  # on the steady clock, which all processes share


@dataclass(frozen=True, slots=True)
class Broken:
    """From the loop: the engine cannot be opened; the process ends."""

    reason: str


ToLoop: TypeAlias = Generate | Cancel
FromLoop: TypeAlias = Ready | Step | Broken
