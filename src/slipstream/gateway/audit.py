"""The audit log: a line of JSON for each request, in a file that only its owner reads and that only grows.

    {"at": "2026-01-31T12:00:00.123Z", "request_id": "req_…", "caller": "1a2b3c4d", "name": "alice", "method": "POST",
     "path": "/v1/chat/completions", "model": "small", "input_tokens": 12, "output_tokens": 50, "status": 200,
     "is_complete": true, "duration_ms": 812.4, "client": "127.0.0.1"}

Texts and keys never come here: nothing of a body, no query, no header but a request id that was checked.
"""

from __future__ import annotations

import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import orjson
from starlette.types import Scope

from slipstream.errors import SlipstreamError
from slipstream.gateway.answering import usage_of
from slipstream.gateway.exchange import Exchange
from slipstream.gateway.redaction import redacted

_FILE_MODE = 0o600
_MAX_PATH = 200
_COMPLAIN_EVERY_S = 60
_log = logging.getLogger(__name__)


class AuditLog:
    """Appends to `path`; a file of `max_bytes` becomes `path.1`, that one `path.2`, up to `kept_files` of them."""

    def __init__(self, path: Path, *, max_bytes: int, kept_files: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._kept_files = kept_files
        self._complained_at = -float(_COMPLAIN_EVERY_S)
        try:
            self._descriptor = _open(path)
        except OSError as error:
            raise SlipstreamError(
                f"{path}: the audit log cannot be written ({error.strerror})",
                mend="make its directory writable, or change gateway.security.audit.file",
            ) from error
        self._size = os.fstat(self._descriptor).st_size

    def write(self, exchange: Exchange, scope: Scope) -> None:
        """Write down a request that has ended; a full disk is logged and stops nobody."""
        line = orjson.dumps(_entry(exchange, scope), option=orjson.OPT_APPEND_NEWLINE)
        try:
            if self._size and self._size + len(line) > self._max_bytes:
                self._begin_anew()
            self._size += os.write(self._descriptor, line)
        except OSError as error:
            if time.monotonic() - self._complained_at >= _COMPLAIN_EVERY_S:
                self._complained_at = time.monotonic()
                _log.error("%s: the audit log cannot be written (%s)", self.path, error.strerror)

    def close(self) -> None:
        os.close(self._descriptor)

    def _begin_anew(self) -> None:
        # After a reload two of them write for a while, and so may two processes: one of them sets the file aside.
        if self.path.exists() and os.path.samestat(self.path.stat(), os.fstat(self._descriptor)):
            self._set_aside()
        fresh = _open(self.path)
        os.close(self._descriptor)
        self._descriptor, self._size = fresh, os.fstat(fresh).st_size

    def _set_aside(self) -> None:
        for number in range(self._kept_files - 1, 0, -1):
            older = _numbered(self.path, number)
            if older.exists():
                older.rename(_numbered(self.path, number + 1))
        self.path.rename(_numbered(self.path, 1))


def _open(path: Path) -> int:
    # A link in the place of the log would lead the writing astray.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, _FILE_MODE)
    os.fchmod(descriptor, _FILE_MODE)
    return descriptor


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _entry(exchange: Exchange, scope: Scope) -> dict[str, object]:
    usage = usage_of(exchange.generations)
    return {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "request_id": exchange.request_id,
        "caller": exchange.caller.id,
        "name": exchange.caller.name,
        "method": scope.get("method", "WEBSOCKET"),
        "path": redacted(scope["path"].encode(errors="replace").decode())[:_MAX_PATH],
        "model": exchange.model,
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "status": exchange.status,
        "is_complete": exchange.is_answered,
        "duration_ms": round((time.monotonic() - exchange.received_at) * 1000, 1),
        "client": (scope.get("client") or (None,))[0],
    }
