"""The backends of one model as one: requests in, token streams out, and the set replaced while they run."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from slipstream.client import TokenRequest
from slipstream.errors import SlipstreamError
from slipstream.gateway.errors import ApiError
from slipstream.gateway.routing.affinity import Homes, prefix_keys, ranked
from slipstream.gateway.routing.backend import Backend, BackendStatus, State
from slipstream.gateway.routing.choice import Bound, choose
from slipstream.gateway.routing.health import HealthWatch
from slipstream.gateway.routing.routed_stream import RoutedStream
from slipstream.spec import RoutingSpec

# `retry`, `hedge`, or why a backend was chosen: `only` one, least `load`, `home` of the prompt's beginning, its home to
# be by `hash`, `spill` where those are too busy. And the name of the backend.
Event = Literal["retry", "hedge", "only", "load", "home", "hash", "spill"]
Observe = Callable[[Event, str], None]

_FIRST_GUESS_TOKENS = 256
_LONGEST_RETRY_AFTER_S = 30


@dataclass(frozen=True, slots=True)
class _Watched:
    backend: Backend
    watch: HealthWatch


class Backends:
    """Every Triton that serves one model; make it inside the loop of the gateway.

    The first ones are taken to be up. Later ones get requests after their first token, see `replace`.
    """

    def __init__(self, addresses: Sequence[str], spec: RoutingSpec | None = None) -> None:
        self.spec = spec or RoutingSpec()
        self.observe: Observe = lambda event, backend: None  # noqa: ARG005 - whoever counts sets it
        self._numbers = itertools.count()
        self._watched: dict[str, _Watched] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._draining: list[Backend] = []
        self._homes = Homes()
        self._has_changed = asyncio.Event()
        self._bound = Bound(factor=self.spec.affinity_load_factor, slack_tokens=self.spec.affinity_slack_tokens)
        self._usual_output_tokens = float(_FIRST_GUESS_TOKENS)
        for address in addresses:
            self._add(address, "up")

    @property
    def is_up(self) -> bool:
        """Whether a request would find a backend now."""
        return any(one.backend.is_up for one in self._watched.values())

    @property
    def addresses(self) -> list[str]:
        """Where they are; not for clients."""
        return list(self._watched)

    def status(self) -> list[BackendStatus]:
        """All backends, those that drain too."""
        return [one.backend.status for one in self._watched.values()] + [one.status for one in self._draining]

    def open(self, request: TokenRequest, *, deadline_s: float, affinity: bytes | None = None) -> RoutedStream:
        """The chunks of `request`; those with the same `affinity`, else with the same beginning, stay together."""
        keys = [] if affinity is None else [affinity]
        if affinity is None and self.spec.prefix_affinity and len(self._watched) > 1:
            keys = prefix_keys(request.input_ids, self.spec.affinity_block_tokens)
        return RoutedStream(self, request, keys=keys, deadline_s=deadline_s)

    async def replace(self, addresses: Sequence[str]) -> None:
        """Serve from `addresses` alone: add the new ones, wait for their first token, then drain the others.

        No request fails for it. `SlipstreamError` if none of them comes up in time: then all stays as it was.
        """
        fresh = [address for address in dict.fromkeys(addresses) if address not in self._watched]
        for address in fresh:
            self._add(address, "joining")
        try:
            await self._wait_until_one_is_up(addresses, all_of=fresh)
        except (SlipstreamError, asyncio.CancelledError):
            for address in fresh:
                self._drain(address)
            raise
        for address in [address for address in self._watched if address not in addresses]:
            self._drain(address)

    async def drained(self) -> None:
        """Wait until no backend that was removed is busy any more."""
        while self._leaving:
            await asyncio.gather(*self._leaving)

    async def close(self) -> None:
        """Leave every backend; what still runs there fails."""
        for address in list(self._watched):
            self._drain(address)
        for backend in self._draining:
            backend.emptied.set()
        await self.drained()

    # What a stream asks for:

    async def choose(self, request: TokenRequest, keys: list[bytes]) -> Backend:
        """The backend for a request; `ApiError` 503 if none comes up while it waits."""
        if (backend := await self.any_up(request, keys)) is None:
            raise self._unavailable()
        return backend

    async def any_up(self, request: TokenRequest, keys: list[bytes]) -> Backend | None:
        """The same, but none if none comes up."""
        ends_at = time.monotonic() + self.spec.wait_s
        while (backend := self.another(request, keys, frozenset())) is None:
            self._has_changed.clear()
            try:
                async with asyncio.timeout(ends_at - time.monotonic()):
                    await self._has_changed.wait()
            except TimeoutError:
                return None
        return backend

    def another(self, request: TokenRequest, keys: list[bytes], tried: set[str] | frozenset[str]) -> Backend | None:
        """The backend for a request that was tried on some of them; none if no other is up."""
        up = {
            address: one.backend.outstanding_tokens
            for address, one in self._watched.items()
            if one.backend.is_up and address not in tried
        }
        if not up:
            return None
        address = self._chosen(up, request, keys)
        self._homes.settle(keys, address, [other for other, one in self._watched.items() if one.backend.is_up])
        return self._watched[address].backend

    def expected_tokens(self, request: TokenRequest) -> int:
        """Tokens that a request will probably bring: what replies are long of late, if it allows as many."""
        return max(1, min(request.max_tokens, round(self._usual_output_tokens)))

    def learn(self, output_tokens: int) -> None:
        """A reply has ended after that many tokens."""
        self._usual_output_tokens += 0.05 * (output_tokens - self._usual_output_tokens)

    def _chosen(self, up: dict[str, int], request: TokenRequest, keys: list[bytes]) -> str:
        cost = len(request.input_ids) + self.expected_tokens(request)
        # Of equals the one that has had none for longest.
        waiting = dict(sorted(up.items(), key=lambda item: self._watched[item[0]].backend.chosen_at))
        home = self._homes.find(keys, up)
        hashed = ranked(keys[0], up) if keys and len(up) > 1 else []
        preferred = ([] if home is None else [home]) + hashed
        address = choose(waiting, preferred, cost=cost, bound=self._bound)
        backend = self._watched[address].backend
        backend.chosen_at = time.monotonic()
        self.observe(_reason(address, up, home, hashed), backend.name)
        return address

    def _add(self, address: str, state: State) -> None:
        backend = Backend(str(next(self._numbers)), address, self.spec, state=state, changed=self._has_changed.set)
        watched = _Watched(backend, HealthWatch(backend))
        self._watched[address] = watched
        watched.watch.start()

    def _drain(self, address: str) -> None:
        watched = self._watched.pop(address)
        watched.backend.drain()
        self._draining.append(watched.backend)
        leaving = asyncio.ensure_future(self._leave(watched))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _leave(self, watched: _Watched) -> None:
        try:
            async with asyncio.timeout(self.spec.drain_timeout_s):
                await watched.backend.emptied.wait()
        except TimeoutError:
            pass
        await watched.watch.stop()
        await watched.backend.close()
        self._draining.remove(watched.backend)

    async def _wait_until_one_is_up(self, addresses: Sequence[str], *, all_of: Sequence[str]) -> None:
        """Wait for all new ones, as long as they may take; in the end one of all is enough."""
        ends_at = time.monotonic() + self.spec.join_timeout_s
        while any(not self._watched[address].backend.is_up for address in all_of):
            self._has_changed.clear()
            try:
                async with asyncio.timeout(ends_at - time.monotonic()):
                    await self._has_changed.wait()
            except TimeoutError:
                break
        if not any(self._watched[address].backend.is_up for address in addresses):
            raise SlipstreamError(
                f"none of the {len(addresses)} new backends brought a token within {self.spec.join_timeout_s:g} s",
                mend="look whether they run; the old ones still serve",
            )

    def _unavailable(self) -> ApiError:
        now = time.monotonic()
        trials = [one.backend.breaker.trial_at - now for one in self._watched.values()]
        wait_s = min(max(1, math.ceil(min(trials, default=1))), _LONGEST_RETRY_AFTER_S)
        message = f"none of the model's {len(self._watched)} backends is up: try again in {wait_s} s"
        return ApiError(503, message, code="unavailable", headers={"retry-after": str(wait_s)})


def _reason(address: str, up: Collection[str], home: str | None, hashed: Sequence[str]) -> Event:
    if len(up) == 1:
        return "only"
    if address == home:
        return "home"
    if not hashed:
        return "load"
    return "hash" if home is None and address == hashed[0] else "spill"
