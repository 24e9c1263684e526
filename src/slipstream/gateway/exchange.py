"""One request on its way through the gateway."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection
from starlette.types import Scope

from slipstream.gateway.caller import ANONYMOUS, Caller
from slipstream.gateway.generation import Generation
from slipstream.gateway.observability.record import Record

_KEY = "exchange"


@dataclass(slots=True, kw_only=True)
class Exchange:
    """What is known of a request so far; each part of the gateway adds what it finds out."""

    request_id: str = field(default_factory=lambda: f"req_{secrets.token_hex(12)}")
    received_at: float = field(default_factory=time.monotonic)
    caller: Caller = ANONYMOUS
    headers: dict[str, str] = field(default_factory=dict)  # that the answer carries
    record: Record = field(default_factory=Record)
    model: str | None = None  # that generates
    generations: Sequence[Generation] = ()  # they count their tokens
    status: int | None = None  # once the answer has begun
    is_answered: bool = False  # to its end


def begin_exchange(scope: Scope, request_id: str | None) -> Exchange:
    """The exchange of a request that just came, under the id that its client gave."""
    exchange = Exchange() if request_id is None else Exchange(request_id=request_id)
    scope.setdefault("state", {})[_KEY] = exchange
    return exchange


def exchange_of(connection: HTTPConnection) -> Exchange:
    """The exchange of a request; one is made where no middleware did."""
    return exchange_in(connection.scope)


def exchange_in(scope: Scope) -> Exchange:
    """The exchange of a request, for middleware."""
    state = scope.setdefault("state", {})
    if _KEY not in state:
        state[_KEY] = Exchange()
    exchange: Exchange = state[_KEY]
    return exchange
