"""One Triton behind a model: whether it is up, how much it has to do, and the way to it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from slipstream.client import AsyncTritonClient
from slipstream.client.failures import (
    ConnectionLostError,
    DeadlineExceededError,
    RequestRefusedError,
)
from slipstream.errors import SlipstreamError
from slipstream.gateway.routing.breaker import Breaker
from slipstream.gateway.routing.leg import Leg
from slipstream.spec import RoutingSpec

State = Literal["joining", "up", "away", "draining"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStatus:
    """A backend as operators see it; `name` tells it from the others and nothing of where it is."""

    name: str
    state: State
    streams: int
    outstanding_tokens: int


class Backend:
    """The state of one backend, kept true by what its requests tell and by `health`.

    `changed` is called whenever requests that wait for a backend may look again.
    """

    def __init__(
        self, name: str, address: str, spec: RoutingSpec, *, state: State, changed: Callable[[], None]
    ) -> None:
        self.name = name
        self.address = address
        self.spec = spec
        self.state: State = state
        self.legs: set[Leg] = set()
        self.outstanding_tokens = 0
        self.heard_at = -math.inf  # never: the first probe is due at once
        self.chosen_at = 0.0
        self.breaker = Breaker(
            failures=spec.breaker_failures,
            error_rate=spec.breaker_error_rate,
            window=spec.breaker_window,
            open_s=spec.breaker_open_s,
        )
        self.client = self._connect()
        self.kicked = asyncio.Event()  # its state has changed: look when the next probe is due
        self.emptied = asyncio.Event()  # it drains, and its last answer has ended
        self._changed = changed
        self._closings: set[asyncio.Task[None]] = set()

    @property
    def is_up(self) -> bool:
        return self.state == "up"

    @property
    def status(self) -> BackendStatus:
        return BackendStatus(
            name=self.name, state=self.state, streams=len(self.legs), outstanding_tokens=self.outstanding_tokens
        )

    def heard(self) -> None:
        """A token came."""
        self.heard_at = time.monotonic()

    def answered(self) -> None:
        """A request came to its end."""
        self.breaker.succeed()

    def failed(self, error: SlipstreamError) -> None:
        """A request ended with `error`."""
        if isinstance(error, ConnectionLostError):
            self.go_away()
        elif isinstance(error, RequestRefusedError):
            self.breaker.succeed()  # it works: it is the request that is not right
        elif not isinstance(error, DeadlineExceededError):  # which says nothing: whoever asks sets it
            self.breaker.fail(time.monotonic())
            if self.breaker.is_open:
                self._leave()

    def go_away(self) -> None:
        """Nothing answers there: no more requests until a probe brings a token."""
        self.breaker.trip(time.monotonic())
        self._leave()

    def lose(self) -> None:
        """The server is silent: end its streams, and leave the connection that they hang on."""
        self.go_away()
        for leg in list(self.legs):
            leg.stream.give_up()
        self._close(self.client)
        self.client = self._connect()

    def probed(self, *, is_working: bool) -> None:
        """A probe has ended."""
        if is_working:
            self.heard()
            self.breaker.close()
            if self.state in {"joining", "away"}:
                self.state = "up"
                self._changed()
        else:
            self.breaker.trial_failed(time.monotonic())
            self._leave()

    def drain(self) -> None:
        """No more requests; those that run may end."""
        self.state = "draining"
        self.kicked.set()
        self.let_go()

    def let_go(self) -> None:
        """A leg has ended."""
        if self.state == "draining" and not self.legs:
            self.emptied.set()

    async def close(self) -> None:
        """Close the connection; streams that are still open fail."""
        for leg in list(self.legs):
            leg.stream.give_up()
        self._close(self.client)
        await asyncio.gather(*self._closings, return_exceptions=True)

    def _leave(self) -> None:
        if self.state == "up":
            self.state = "away"
            self._changed()
        self.kicked.set()

    def _connect(self) -> AsyncTritonClient:
        # Whom to ask again, and when, is decided here and not in the client.
        return AsyncTritonClient(self.address, connect_timeout_s=0)

    def _close(self, client: AsyncTritonClient) -> None:
        closing = asyncio.ensure_future(client.close())
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)
