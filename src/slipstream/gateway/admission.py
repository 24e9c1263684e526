"""Whether a request may run, and when: the limits of its caller, then the queue of its model."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from slipstream.gateway.caller import Caller, CallerLimits
from slipstream.gateway.errors import ApiError
from slipstream.gateway.exchange import Exchange
from slipstream.gateway.limits.headers import rate_headers, refusal, too_large
from slipstream.gateway.limits.memory import MemoryStore
from slipstream.gateway.limits.values import Demand, LimitStore, Reserved, StoreFailedError
from slipstream.gateway.queueing.fair_queue import FairQueue, Place
from slipstream.gateway.served_model import ServedModel
from slipstream.spec import GatewaySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a request takes at most, as far as can be said before it runs."""

    tokens: int  # of each prompt once, and of all outputs: what the caller's limits count
    kv_tokens: int  # of the KV cache, for each choice its prompt and the output that is to be expected
    choices: int


class AdmissionWatch:
    """What happens at admission, for metrics; this one looks away."""

    def refused(self, model: str, caller: Caller, reason: str) -> None:
        """A request was refused: by the limit of this name, or with an error of this code."""

    def store_failed(self, error: str) -> None:
        """The shared store of limits failed; `error` is the name of its exception."""


class Ticket:
    """The right of one request to run."""

    def __init__(
        self, exchange: Exchange, model: ServedModel, cost: Cost, queue: FairQueue, watch: AdmissionWatch
    ) -> None:
        self._exchange = exchange
        self._model = model.name
        self._queue = queue
        self._cost = cost
        self._watch = watch
        self._place: Place | None = None
        self._used: int | None = None

    async def turn(self) -> None:
        """Wait in the model's queue; `ApiError` where it is full, the deadline passes or the model is away."""
        began = time.monotonic()
        cost, exchange = self._cost, self._exchange
        try:
            self._place = await self._queue.enter(
                exchange.caller, kv_tokens=cost.kv_tokens, choices=cost.choices, deadline_at=exchange.deadline_at
            )
        except ApiError as error:
            self._watch.refused(self._model, exchange.caller, error.code or "")
            raise
        finally:
            exchange.record.queued_s = time.monotonic() - began

    def settle(self, tokens_used: int) -> None:
        """Say what the request took, prompt and output; the rest is given back when it ends.

        Without it a request that ran has taken all, and one that never had its turn nothing, not even a request. An
        answer that needs no engine settles 0 without waiting for a turn: it counts as a request.
        """
        self._used = tokens_used

    async def end(self, store: LimitStore, reserved: Reserved | None) -> None:
        """Give everything back that was not used, and the place of the request."""
        ran, used = self._place is not None, self._used
        tokens = used if used is not None else self._cost.tokens if ran else 0
        if self._place is not None:
            unused = self._cost.kv_tokens - tokens  # less than none, if the output was longer than expected
            self._queue.leave(self._place, unused_tokens=unused)
        if reserved is not None:
            await store.settle(reserved, tokens=tokens, requests=int(ran or used is not None))


class Admission:
    """The one door through which everything goes that generates. It belongs to one event loop."""

    def __init__(
        self,
        spec: GatewaySpec | None = None,
        *,
        store: LimitStore | None = None,
        watch: AdmissionWatch | None = None,
    ) -> None:
        self.watch = watch or AdmissionWatch()
        self._spec = spec or GatewaySpec()
        self._store: LimitStore = store or MemoryStore()
        self._queues: dict[str, FairQueue] = {}
        self._models: dict[str, ServedModel] = {}

    @property
    def queues(self) -> dict[str, FairQueue]:
        """By the model's name, of those that were asked for."""
        return self._queues

    @asynccontextmanager
    async def enter(self, exchange: Exchange, model: ServedModel, cost: Cost) -> AsyncIterator[Ticket]:
        """Count the request against its caller's limits, and put what is left into the answer's headers.

        `ApiError` if there is no room. What the ticket did not use is given back at the end, however that comes.
        """
        limits, store = limits_of(exchange.caller, self._spec), self._store
        reserved = None
        if limits != CallerLimits():
            reserved = await self._reserve(store, exchange, model, limits, cost)
            exchange.headers |= rate_headers(limits, reserved.standing)
        ticket = Ticket(exchange, model, cost, self.queue_of(model), self.watch)
        try:
            yield ticket
        finally:
            await ticket.end(store, reserved)

    def queue_of(self, model: ServedModel) -> FairQueue:
        """The queue in front of the model; the first call makes it, and a model that replaces it brings its room."""
        queue = self._queues.get(model.name)
        if queue is None:
            queue = self._queues[model.name] = FairQueue()
        if self._models.get(model.name) is not model:
            self._models[model.name] = model
            self._furnish(queue, model)
        return queue

    def reconfigure(self, spec: GatewaySpec, store: LimitStore | None = None) -> None:
        """Go on with other settings; what runs or waits stays, and is settled with the store that counted it."""
        self._spec, self._store = spec, store or self._store
        for name, queue in self._queues.items():
            self._furnish(queue, self._models[name])

    def _furnish(self, queue: FairQueue, model: ServedModel) -> None:
        spec = self._spec.admission
        queue.use(model.capacity.with_settings(spec), spec, lambda: model.backends.is_up)

    async def _reserve(
        self, store: LimitStore, exchange: Exchange, model: ServedModel, limits: CallerLimits, cost: Cost
    ) -> Reserved:
        caller = exchange.caller
        if (error := too_large(limits, tokens=cost.tokens)) is not None:
            self.watch.refused(model.name, caller, "too_large")
            raise error
        try:
            found = await store.reserve(Demand(caller_id=caller.id, limits=limits, tokens=cost.tokens))
        except StoreFailedError:
            self.watch.refused(model.name, caller, "limits_unavailable")
            raise _store_is_away() from None
        if isinstance(found, Reserved):
            return found
        self.watch.refused(model.name, caller, found.limit)
        raise refusal(found, limits, tokens=cost.tokens)


def limits_of(caller: Caller, spec: GatewaySpec) -> CallerLimits:
    """The caller's own limits, and those of `gateway.limits` where he has none."""
    own, general = caller.limits, spec.limits
    return CallerLimits(
        requests_per_minute=own.requests_per_minute or general.requests_per_minute,
        tokens_per_minute=own.tokens_per_minute or general.tokens_per_minute,
        concurrent_requests=own.concurrent_requests or general.concurrent_requests,
        tokens_per_day=own.tokens_per_day or general.tokens_per_day,
    )


def _store_is_away() -> ApiError:
    return ApiError(
        503,
        "limits cannot be checked at the moment: try again",
        code="limits_unavailable",
        headers={"retry-after": "1"},
    )
