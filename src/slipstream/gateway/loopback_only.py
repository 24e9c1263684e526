"""Guards a gateway without keys against web pages: a browser reaches the loopback address on behalf of any of them.

A page whose own name was made to point at 127.0.0.1 (DNS rebinding) sends that name as `Host`; a page that asks
127.0.0.1 outright sends its own address as `Origin`. Programs send a loopback host and no origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from slipstream.gateway.errors import ApiError
from slipstream.gateway.refusal import refuse
from slipstream.spec import is_loopback


class LoopbackOnly:
    """Answers 403 unless the host is a loopback name or address, and the origin, if any, is the host's or allowed."""

    def __init__(self, app: ASGIApp, *, allowed_origins: Sequence[str]) -> None:
        self._app = app
        self._allowed_origins = frozenset(allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"} and (error := self._objection(scope)) is not None:
            await refuse(scope, receive, send, error)
        else:
            await self._app(scope, receive, send)

    def _objection(self, scope: Scope) -> ApiError | None:
        hosts = _values(scope, b"host")
        if len(hosts) != 1 or not is_loopback(_hostname(hosts[0])):
            return ApiError(403, "host: without keys only loopback names are served", code="host_not_allowed")
        for origin in _values(scope, b"origin"):
            if origin not in self._allowed_origins and _authority(origin) != hosts[0]:
                return ApiError(403, "origin: this page may not ask", code="origin_not_allowed")
        return None


def _values(scope: Scope, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]


def _hostname(host: str) -> str:
    """`host` without its port; nothing where it is no host at all."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
