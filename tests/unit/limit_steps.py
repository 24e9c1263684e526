"""What requests and answers may do to a store of limits, and a clock that stands still in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from slipstream.gateway.caller import CallerLimits
from slipstream.gateway.limits.values import Demand, LimitStore, Refused, Reserved

NOON = 1_800_000_000.0 - 1_800_000_000 % 86_400 + 43_200


class Clock:
    def __init__(self, now_s: float = NOON) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@dataclass(frozen=True)
class Ask:
    """A request of so many tokens."""

    caller: str
    tokens: int


@dataclass(frozen=True)
class End:
    """The oldest request but so many ends, and took that share of its tokens."""

    which: int
    share: float
    counts: bool


@dataclass(frozen=True)
class Wait:
    seconds: float


Step = Ask | End | Wait
some_limits = st.builds(
    CallerLimits,
    requests_per_minute=st.none() | st.integers(1, 6),
    tokens_per_minute=st.none() | st.integers(50, 400),
    tokens_per_day=st.none() | st.integers(100, 1500),
    concurrent_requests=st.none() | st.integers(1, 4),
)
some_steps = st.lists(
    st.builds(Ask, st.sampled_from("ab"), st.integers(1, 120))
    | st.builds(End, st.integers(0, 5), st.sampled_from([0.0, 0.3, 1.0]), st.booleans())
    | st.builds(Wait, st.sampled_from([0.0, 0.125, 0.875, 7.5, 31.0, 59.75, 60.0, 61.0, 50_000.0])),
    max_size=40,
)


@dataclass
class Granted:
    """A request that was let in."""

    at_s: float
    reserved: Reserved
    tokens: int  # that count: all it asked for, or what it took once it has ended
    requests: int = 1
    has_ended: bool = False


async def play(
    store: LimitStore, clock: Clock, limits: CallerLimits, steps: Sequence[Step]
) -> tuple[list[Granted], list[tuple[float, Ask, Refused]]]:
    """What was let in, and what was refused when."""
    granted: list[Granted] = []
    refused: list[tuple[float, Ask, Refused]] = []
    for step in steps:
        if isinstance(step, Wait):
            clock.now_s += step.seconds
        elif isinstance(step, Ask):
            found = await store.reserve(Demand(caller_id=step.caller, limits=limits, tokens=step.tokens))
            if isinstance(found, Reserved):
                granted.append(Granted(clock.now_s, found, step.tokens))
            else:
                refused.append((clock.now_s, step, found))
        elif open_ones := [one for one in granted if not one.has_ended]:
            one = open_ones[step.which % len(open_ones)]
            one.tokens, one.requests, one.has_ended = int(one.tokens * step.share), int(step.counts), True
            await store.settle(one.reserved, tokens=one.tokens, requests=one.requests)
    return granted, refused
