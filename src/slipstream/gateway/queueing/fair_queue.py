"""The queue in front of one model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from slipstream.gateway.caller import Caller
from slipstream.gateway.errors import ApiError
from slipstream.gateway.queueing.capacity import UNKNOWN, Capacity
from slipstream.gateway.queueing.drain_rate import DrainRate
from slipstream.gateway.queueing.fair_order import FairOrder, Waiting
from slipstream.spec import GatewayAdmissionSpec


@dataclass(slots=True, eq=False, kw_only=True)
class Place(Waiting):
    """A request that waits or runs."""

    kv_tokens: int
    choices: int
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    is_waiting: bool = False
    is_running: bool = False


class FairQueue:
    """Lets requests run while there is room for them; the others wait, and the next one is never passed by.

    When the queue is full, the latest of the caller who crowds it is refused; so is who waits too long, and who leaves
    frees his place. While no server of the model is up nobody waits here: the routing knows how long that may last. For
    one event loop.
    """

    def __init__(
        self,
        capacity: Capacity = UNKNOWN,
        spec: GatewayAdmissionSpec | None = None,
        is_up: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.drain = DrainRate()
        self._capacity = capacity
        self._spec = spec or GatewayAdmissionSpec()
        self._is_up = is_up
        self._clock = clock
        self._order = FairOrder(self._spec.aging_s)
        self._running_tokens = 0
        self._running_choices = 0
        self._busy_since = 0.0

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._order.count

    @property
    def waiting_tokens(self) -> int:
        return self._order.cost

    @property
    def running_choices(self) -> int:
        return self._running_choices

    @property
    def running_tokens(self) -> int:
        """Of the KV cache, as estimated."""
        return self._running_tokens

    async def enter(self, caller: Caller, *, kv_tokens: int, choices: int, deadline_at: float | None = None) -> Place:
        """Wait for room, until `deadline_at` at most; `ApiError` where there is none. `leave` gives the place back."""
        now = self._clock()
        if deadline_at is not None and deadline_at <= now:
            raise _deadline_passed()
        place = Place(caller=caller, cost=kv_tokens, since=now, kv_tokens=kv_tokens, choices=choices)
        if not self._is_up():
            self._let_in()
        if self._order.count == 0 and self._has_room(place):
            self._add(place)
            self._start(place)
            return place
        if self._order.count >= self._spec.max_waiting:
            self._make_place(caller)
        self._add(place)
        await self._wait(place, now, deadline_at)
        return place

    def leave(self, place: Place, *, unused_tokens: int = 0) -> None:
        """The request has ended; what it did not use of its estimate is given back to its caller's share."""
        now = self._clock()
        self._running_tokens -= place.kv_tokens
        self._running_choices -= place.choices
        self.drain.note(place.kv_tokens, now - self._busy_since)
        self._busy_since = now
        self._order.give_back(place, unused_tokens)
        self._let_in()

    def use(self, capacity: Capacity, spec: GatewayAdmissionSpec, is_up: Callable[[], bool]) -> None:
        """Go on with other settings."""
        self._capacity, self._spec, self._is_up = capacity, spec, is_up
        self._order.aging_s = spec.aging_s
        self._let_in()

    async def _wait(self, place: Place, came_at: float, deadline_at: float | None) -> None:
        gives_up_at = came_at + self._spec.queue_timeout_s
        is_callers = deadline_at is not None and deadline_at < gives_up_at
        left_s = (deadline_at if is_callers and deadline_at is not None else gives_up_at) - came_at
        try:
            async with asyncio.timeout(left_s):
                await place.turn
        except TimeoutError:
            self._drop(place)
            raise (_deadline_passed() if is_callers else self._too_long()) from None
        except BaseException:
            self._drop(place)
            raise

    def _drop(self, place: Place) -> None:
        """Whoever waited is gone; his turn may have come in the same moment."""
        if place.is_running:
            self.leave(place, unused_tokens=place.kv_tokens)
        elif place.is_waiting:
            self._remove(place)
            self._let_in()
        elif not place.turn.cancelled():
            place.turn.exception()  # he was displaced and left at once: asyncio would complain that nobody looked

    def _let_in(self) -> None:
        while (place := self._first()) is not None:
            if place.turn.done():  # cancelled, and on its way to `_drop`, which lets the others in
                return
            if not self._has_room(place):
                return
            self._start(place)
            place.turn.set_result(None)

    def _make_place(self, caller: Caller) -> None:
        """In a full queue: at the cost of whoever crowds it, or not at all."""
        last = self._order.displaced_by(caller)
        if last is None:
            raise self._full()
        assert isinstance(last, Place)
        self._remove(last)
        if not last.turn.done():
            last.turn.set_exception(self._full())

    def _first(self) -> Place | None:
        place = self._order.first(self._clock())
        assert place is None or isinstance(place, Place)
        return place

    def _add(self, place: Place) -> None:
        self._order.add(place)
        place.is_waiting = True

    def _remove(self, place: Place) -> None:
        self._order.remove(place)
        place.is_waiting = False

    def _has_room(self, place: Place) -> bool:
        if self._running_choices == 0 or not self._is_up():  # what is larger than the engine, the engine may judge
            return True
        return self._capacity.has_room(
            kv_tokens=self._running_tokens + place.kv_tokens, choices=self._running_choices + place.choices
        )

    def _start(self, place: Place) -> None:
        self._order.take(place)
        place.is_waiting, place.is_running = False, True
        if self._running_choices == 0:
            self._busy_since = self._clock()
        self._running_tokens += place.kv_tokens
        self._running_choices += place.choices

    def _full(self) -> ApiError:
        wait_s = self.drain.time_for(self._order.cost)
        message = f"{self._order.count} requests wait for this model, which is the limit; try again in {wait_s} s"
        return ApiError(429, message, code="queue_full", headers={"retry-after": str(wait_s)})

    def _too_long(self) -> ApiError:
        wait_s = self.drain.time_for(self._order.cost)
        message = f"no place became free within {self._spec.queue_timeout_s:g} s; try again in {wait_s} s"
        return ApiError(503, message, code="queue_timeout", headers={"retry-after": str(wait_s)})


def _deadline_passed() -> ApiError:
    return ApiError(504, "the request's deadline passed before its turn came", code="deadline_exceeded")
