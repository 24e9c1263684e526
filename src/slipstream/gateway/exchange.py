"""One request on its way through the gateway."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from slipstream.gateway.caller import ANONYMOUS, Caller
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


def exchange_of(connection: HTTPConnection) -> Exchange:
    """The exchange of a request; the first call makes it."""
    exchange: Exchange = connection.scope.setdefault("state", {}).setdefault(_KEY, Exchange())
    return exchange
