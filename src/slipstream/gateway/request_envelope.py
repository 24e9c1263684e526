"""What every answer carries, whatever it is: a request id and the headers that browsers heed; what broke is a 500."""

from __future__ import annotations

import logging
import re
import traceback

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slipstream.gateway.audit import AuditLog
from slipstream.gateway.errors import ApiError
from slipstream.gateway.exchange import Exchange, begin_exchange
from slipstream.gateway.refusal import refuse

_PROBES = "/health/"  # asked every few seconds
_SANE_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:\-]{0,127}")
_STARTS = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_HSTS = (b"strict-transport-security", b"max-age=31536000")
_log = logging.getLogger(__name__)


class RequestEnvelope:
    """The outermost middleware: makes the exchange, marks the answer, writes the audit log."""

    def __init__(self, app: ASGIApp, *, audit: AuditLog | None, is_https: bool) -> None:
        self._app = app
        self._audit = audit
        self._headers = (*_HEADERS, _HSTS) if is_https else _HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        exchange = begin_exchange(scope, _request_id(scope))
        marked = [(b"x-request-id", exchange.request_id.encode()), *self._headers]

        async def mark(message: Message) -> None:
            kind = message["type"]
            if kind in _STARTS:
                exchange.status = message.get("status", 101)
                message = {**message, "headers": _with_missing(message.get("headers", ()), marked)}
            elif kind == "http.response.body" and not message.get("more_body", False):
                exchange.is_answered = True
            await send(message)

        try:
            await self._app(scope, receive, mark)
        except Exception as error:  # noqa: BLE001 - whatever it is, its words may hold a text that no log may have
            _report(error, exchange)
            if exchange.status is None:
                await refuse(scope, receive, mark, _broken(exchange), drops_rest=False)
        finally:
            if self._audit is not None and not scope["path"].startswith(_PROBES):
                self._audit.write(exchange, scope)


def _request_id(scope: Scope) -> str | None:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode("ascii") if _SANE_ID.fullmatch(given) else None


def _with_missing(headers: list[tuple[bytes, bytes]], marked: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    present = {name.lower() for name, _ in headers}
    return [*headers, *(pair for pair in marked if pair[0] not in present)]


def _report(error: Exception, exchange: Exchange) -> None:
    where = "".join(traceback.format_tb(error.__traceback__))
    _log.error("%s: %s\n%s", exchange.request_id, type(error).__qualname__, where)


def _broken(exchange: Exchange) -> ApiError:
    return ApiError(500, f"the gateway failed; its log says more under {exchange.request_id}", code="internal_error")
