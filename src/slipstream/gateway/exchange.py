"""One request on its way through the gateway."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from slipstream.gateway.caller import ANONYMOUS, Caller
from slipstream.gateway.routing.affinity import session_key

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
    session: str | None = None  # requests of one session stay on one backend

    @property
    def affinity(self) -> bytes | None:
        """What the session is routed by."""
        return None if self.session is None else session_key(self.caller.id, self.session)

    def answered_by(self, backend: str | None) -> None:
        """A backend has brought a first token: name it in the answer, once."""
        names = self.headers.get(BACKEND_HEADER, "").split(", ") if BACKEND_HEADER in self.headers else []
        if backend is not None and backend not in names:
            self.headers[BACKEND_HEADER] = ", ".join([*names, backend])


def exchange_of(connection: HTTPConnection) -> Exchange:
    """The exchange of a request; the first call makes it."""
    exchange: Exchange = connection.scope.setdefault("state", {}).setdefault(_KEY, Exchange())
    exchange.session = connection.headers.get(SESSION_HEADER)
    return exchange
