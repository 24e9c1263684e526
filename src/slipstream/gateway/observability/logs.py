"""Logs as lines of JSON: one a request, and whatever else is logged in the process."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, TextIO

import orjson

from slipstream.gateway.redaction import SecretFilter

LOGGER = logging.getLogger("slipstream.gateway.requests")
_OFF = logging.CRITICAL + 1
_HTTP_ERROR, _HTTP_FAILURE = 400, 500


def configure_logs(level: str, stream: TextIO | None = None) -> None:
    """Write what this process logs at `level` and above to `stream`, which is stderr unless another is given."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(SecretFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_OFF if level == "off" else level.upper())


def log_request(fields: dict[str, Any], *, status: int, is_quiet: bool) -> None:
    """One line; failures of the gateway or of what is behind it are warnings, the quiet ones are for `debug`."""
    level = logging.WARNING if status >= _HTTP_FAILURE else logging.DEBUG if is_quiet else logging.INFO
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, "request", extra={"fields": fields})


class JsonLines(logging.Formatter):
    """`{"time": …, "level": …, "event": …}` and the fields of the record, if it has some."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.name != LOGGER.name:
            line["logger"] = record.name
        if record.exc_info or record.exc_text:
            line["exception"] = record.exc_text or self.formatException(record.exc_info or (None, None, None))
        return orjson.dumps(line, default=str).decode()
