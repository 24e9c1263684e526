"""The order in which callers that wait are served: by priority, and within one by fair queueing.

Each caller has a clock that runs by the tokens it is given, over its weight; the caller whose clock is furthest behind
goes next. So callers that keep asking get tokens in proportion to their weights, and the lead of one over another stays
below what one request of each costs. A caller that comes back after a pause starts at the common clock, which runs by
the tokens that all are given, over the weights of all who wait: a pause earns nothing, nobody pays for having been
alone, and new callers, however many, do not hold up those who are there.

Who has waited for `aging_s` moves up one priority, and takes his place among those who are there.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import takewhile

from slipstream.gateway.caller import Caller, Priority

_LEVELS: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}
_SPARE_FLOWS = 64  # that are kept though nothing of them waits


@dataclass(slots=True, eq=False, kw_only=True)
class Waiting:
    """A request in the order."""

    caller: Caller
    cost: int  # tokens
    since: float  # when it came, or moved up
    level: int = field(init=False)

    def __post_init__(self) -> None:
        self.level = _LEVELS[self.caller.priority]


@dataclass(slots=True)
class _Flow:
    """The requests of one caller at one priority, first come first served."""

    clock: float
    floor: float = 0.0  # where it stood, at least, when the caller came back
    waiting: deque[Waiting] = field(default_factory=deque)

    def give_back(self, tokens: float) -> None:
        self.clock -= tokens
        if self.waiting:  # or what was given back would make up for a pause
            self.clock = max(self.clock, self.floor)


@dataclass(slots=True)
class _Crowd:
    """How much of one caller waits, at whatever priority by now."""

    caller: Caller
    count: int = 0

    def rank(self) -> tuple[int, float]:
        return _LEVELS[self.caller.priority], self.count / self.caller.weight


class _Level:
    """One priority."""

    def __init__(self) -> None:
        self.clock = 0.0  # the common one
        self.flows: dict[str, _Flow] = {}
        self.backlogged: dict[str, _Flow] = {}  # those of the flows in which something waits
        self.next_aging_at = math.inf  # nobody is due before

    def add(self, request: Waiting, aging_s: float) -> None:
        name = request.caller.id
        flow = self.flows.get(name)
        if flow is None:
            flow = self.flows[name] = _Flow(self.clock)
        if not flow.waiting:
            flow.floor = self.clock = self._common_clock()
            flow.clock = max(flow.clock, flow.floor)
            self.backlogged[name] = flow
        flow.waiting.append(request)
        self.next_aging_at = min(self.next_aging_at, request.since + aging_s)

    def remove(self, request: Waiting) -> _Flow:
        name = request.caller.id
        flow = self.flows[name]
        flow.waiting.remove(request)
        if not flow.waiting:
            del self.backlogged[name]
        return flow

    def take(self, request: Waiting) -> None:
        self.clock += request.cost / sum(flow.waiting[0].caller.weight for flow in self.backlogged.values())
        flow = self.remove(request)
        flow.clock += request.cost / request.caller.weight
        if len(self.flows) > 2 * len(self.backlogged) + _SPARE_FLOWS:
            self.flows = {name: flow for name, flow in self.flows.items() if flow.waiting or flow.clock > self.clock}

    def first(self) -> Waiting | None:
        if not self.backlogged:
            return None
        return min(self.backlogged.values(), key=lambda flow: flow.clock).waiting[0]

    def aged(self, now: float, aging_s: float) -> list[Waiting]:
        """Those who are due to move up, taken out."""
        if now < self.next_aging_at:
            return []
        due = [
            request
            for flow in self.backlogged.values()
            for request in takewhile(lambda request: request.since + aging_s <= now, flow.waiting)
        ]
        for request in due:
            self.remove(request)
        heads = (flow.waiting[0].since for flow in self.backlogged.values())
        self.next_aging_at = min(heads, default=math.inf) + aging_s
        return due

    def _common_clock(self) -> float:
        """Not ahead of all who wait: what is given back sets their clocks back, and not this one."""
        return min(self.clock, max((flow.clock for flow in self.backlogged.values()), default=self.clock))


class FairOrder:
    """Requests that wait. It knows nothing of time but what it is told, and nothing of room."""

    def __init__(self, aging_s: float) -> None:
        self.aging_s = aging_s
        self.count = 0
        self.cost = 0  # of all that wait
        self._levels = tuple(_Level() for _ in _LEVELS)
        self._crowds: dict[str, _Crowd] = {}  # of callers of whom something waits

    def add(self, request: Waiting) -> None:
        self._levels[request.level].add(request, self.aging_s)
        self._crowds.setdefault(request.caller.id, _Crowd(request.caller)).count += 1
        self.count += 1
        self.cost += request.cost

    def remove(self, request: Waiting) -> None:
        """It will not be served: its caller's clock stays where it is."""
        self._levels[request.level].remove(request)
        self._forget(request)

    def first(self, now: float) -> Waiting | None:
        """The one to serve next; None if nothing waits."""
        for level, above in ((1, 0), (2, 1)):
            for request in self._levels[level].aged(now, self.aging_s):
                request.level, request.since = above, now
                self._levels[above].add(request, self.aging_s)
        firsts = (level.first() for level in self._levels)
        return next((one for one in firsts if one is not None), None)

    def take(self, request: Waiting) -> None:
        """It is served now, the first of its caller."""
        self._levels[request.level].take(request)
        self._forget(request)

    def displaced_by(self, caller: Caller) -> Waiting | None:
        """Who makes place for one more of `caller` where there is none: the latest of those who crowd the order.

        That is the caller of the lowest priority, and among such the one with most that waits for its weight. None if
        nobody takes more than `caller` would.
        """
        own = self._crowds.get(caller.id, _Crowd(caller))
        worst = max(self._crowds.values(), key=_Crowd.rank, default=own)
        if worst.rank() <= _Crowd(caller, own.count + 1).rank():
            return None
        flows = (level.backlogged.get(worst.caller.id) for level in reversed(self._levels))
        return next(flow.waiting[-1] for flow in flows if flow is not None)

    def give_back(self, request: Waiting, tokens: int) -> None:
        """One that was served took `tokens` less than it cost: its caller's clock goes back by them."""
        flow = self._levels[request.level].flows.get(request.caller.id)
        if flow is not None:
            flow.give_back(tokens / request.caller.weight)

    def _forget(self, request: Waiting) -> None:
        crowd = self._crowds[request.caller.id]
        crowd.count -= 1
        if not crowd.count:
            del self._crowds[request.caller.id]
        self.count -= 1
        self.cost -= request.cost
