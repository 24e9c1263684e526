"""One request on its way through the gateway."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection
from starlette.types import Scope

from slipstream.gateway.caller import ANONYMOUS, Caller
from slipstream.gateway.deadline import deadline_at
from slipstream.gateway.observability.record import Record
from slipstream.gateway.routing.affinity import session_key

if TYPE_CHECKING:
    from slipstream.gateway.generation import Generation

BACKEND_HEADER = "x-slipstream-backend"
SESSION_HEADER = "x-session-id"  # llm-d's name
_KEY = "exchange"


@dataclass(slots=True, kw_only=True)
class Exchange:
    """What is known of a request so far; each part of the gateway adds what it finds out."""

    request_id: str = field(default_factory=lambda: f"req_{secrets.token_hex(12)}")
    received_at: float = field(default_factory=time.monotonic)
    caller: Caller = ANONYMOUS
    headers: dict[str, str] = field(default_factory=dict)  # that the answer carries
    deadline_at: float | None = None  # of `time.monotonic`; the request is worth nothing if it has not begun by then
    record: Record = field(default_factory=Record)
    cache_control: str = ""  # the request's header
    session: str | None = None  # requests of one session stay on one backend
    body_bytes: int = 0
    model: str | None = None  # that generates
    generations: Sequence[Generation] = ()  # they count their tokens
    status: int | None = None  # once the answer has begun
    is_answered: bool = False  # to its end

    @property
    def affinity(self) -> bytes | None:
        """What the session is routed by."""
        return None if self.session is None else session_key(self.caller.id, self.session)

    def answered_by(self, backend: str | None) -> None:
        """A backend has brought a first token: name it in the answer, once."""
        names = self.headers.get(BACKEND_HEADER, "").split(", ") if BACKEND_HEADER in self.headers else []
        if backend is not None and backend not in names:
            self.headers[BACKEND_HEADER] = self.record.backend = ", ".join([*names, backend])


def begin_exchange(scope: Scope, request_id: str | None) -> Exchange:
    """The exchange of a request that just came, under the id that its client gave."""
    exchange = Exchange() if request_id is None else Exchange(request_id=request_id)
    scope.setdefault("state", {})[_KEY] = exchange
    return exchange


def exchange_of(connection: HTTPConnection) -> Exchange:
    """The exchange of a request; one is made where no middleware did."""
    exchange = exchange_in(connection.scope)
    exchange.cache_control = connection.headers.get("cache-control", "")
    exchange.session = connection.headers.get(SESSION_HEADER)
    exchange.deadline_at = deadline_at(connection.headers, exchange.received_at)
    return exchange


def exchange_in(scope: Scope) -> Exchange:
    """The exchange of a request, for middleware."""
    state = scope.setdefault("state", {})
    if _KEY not in state:
        state[_KEY] = Exchange()
    exchange: Exchange = state[_KEY]
    return exchange
