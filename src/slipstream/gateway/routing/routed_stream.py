"""The chunks of one reply, whichever backend it comes from."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from slipstream.client import Chunk, TokenRequest
from slipstream.client.failures import (
    ConnectionLostError,
    DeadlineExceededError,
    NotConnectedError,
    OverloadedError,
    RequestRefusedError,
    ServerFaultError,
)
from slipstream.errors import SlipstreamError
from slipstream.gateway.routing.backend import Backend
from slipstream.gateway.routing.hedge import first_of
from slipstream.gateway.routing.leg import Leg

if TYPE_CHECKING:
    from slipstream.gateway.routing.backends import Backends


class RoutedStream(AsyncIterator[Chunk]):
    """Until the first chunk another backend may take over; from then on the reply is one backend's.

    Closing it, or cancelling its task, ends the request on the server.
    """

    def __init__(self, backends: Backends, request: TokenRequest, *, keys: list[bytes], deadline_s: float) -> None:
        self._backends = backends
        self._request = request
        self._keys = keys
        self._ends_at = time.monotonic() + deadline_s
        self._tried: set[str] = set()  # addresses
        self._attempts = backends.spec.attempts  # left; a request may be what its backends break by
        self._leg: Leg | None = None

    @property
    def backend(self) -> str | None:
        """The name of the backend that answers; none before the first chunk."""
        return None if self._leg is None else self._leg.backend.name

    async def __anext__(self) -> Chunk:
        if self._leg is None:
            return await self._first()
        try:
            return await self._leg.next()
        except StopAsyncIteration:
            self._backends.learn(self._leg.output_tokens)
            raise

    def close(self) -> None:
        """End the request, if it still runs."""
        if self._leg is not None:
            self._leg.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _first(self) -> Chunk:
        backend = await self._backends.choose(self._request, self._keys)
        while True:
            try:
                return await self._try(backend)
            except SlipstreamError as error:
                if (other := await self._after(error)) is None:
                    raise
                backend = other

    async def _try(self, backend: Backend) -> Chunk:
        leg = self._start(backend)
        after_s = self._backends.spec.hedge_after_s
        if after_s is None:
            self._leg, chunk = leg, None
            try:
                chunk = await leg.next()
            finally:
                if chunk is None:
                    leg.close()
            return chunk
        first = await first_of(leg, self._second, after_s=after_s)
        self._leg = first.leg
        if first.chunk is None:
            raise StopAsyncIteration
        return first.chunk

    def _second(self) -> Leg | None:
        """The same request on another backend; none where there is no other."""
        if (other := self._backends.another(self._request, self._keys, self._tried)) is None:
            return None
        self._backends.observe("hedge", other.name)
        return self._start(other)

    def _start(self, backend: Backend) -> Leg:
        self._tried.add(backend.address)
        expected_tokens = self._backends.expected_tokens(self._request)
        deadline_s = max(0.0, self._ends_at - time.monotonic())
        return Leg(backend, self._request, expected_tokens=expected_tokens, deadline_s=deadline_s)

    async def _after(self, error: SlipstreamError) -> Backend | None:
        """The backend to ask after `error`; none if it stands."""
        self._leg = None
        if isinstance(error, RequestRefusedError | DeadlineExceededError) and not isinstance(error, OverloadedError):
            return None
        other = self._backends.another(self._request, self._keys, self._tried)
        if other is None or not isinstance(error, NotConnectedError):
            self._attempts -= 1
        if not self._attempts:
            return None
        if other is None and isinstance(error, ConnectionLostError | ServerFaultError):
            # Perhaps it is the only one, and back in a moment.
            other = await self._backends.any_up(self._request, self._keys)
        if other is not None:
            self._backends.observe("retry", other.name)
        return other
