"""Keys and tokens stay out of logs, whoever writes them."""

from __future__ import annotations

import logging
import re

_HIDDEN = "***"
_SECRETS = (
    # Our own keys: the id may be seen, it finds the key in the audit log; then any other kind of `sk-…`.
    (re.compile(r"\bsk-([a-z0-9]{8})-[A-Za-z0-9_\-]{8,}"), rf"sk-\1-{_HIDDEN}"),
    (re.compile(r"\bsk-(?![a-z0-9]{8}-\*)[A-Za-z0-9_\-]{8,}"), f"sk-{_HIDDEN}"),
    (re.compile(r"\beyJ[A-Za-z0-9_\-]{4,}\.[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]*"), _HIDDEN),  # a JSON web token
    (re.compile(r"(?i)\b((?:bearer|basic)\s+)(?!\*)[^\s'\",;]+"), rf"\1{_HIDDEN}"),
    (
        re.compile(
            r"(?i)\b((?:proxy-)?authorization|x-api-key|api[-_]key|cookie)(b?['\"]?\s*[:=,]\s*b?['\"]?)"
            r"(?!(?:bearer|basic)\s)(?:\*\*\*)?[^\s'\",;)]+"
        ),
        rf"\1\2{_HIDDEN}",
    ),
)


def redacted(text: str) -> str:
    """`text` without keys, tokens and the values of headers that carry them."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


class SecretFilter(logging.Filter):
    """Put on a handler: what passes it has no secrets, in its message, its arguments or its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit: the handler would print them as they are
            message = f"{record.msg} (with arguments that do not fit)"
        record.msg, record.args = redacted(message), None
        if record.exc_info:
            record.exc_text = _FORMATTER.formatException(record.exc_info)
            record.exc_info = None
        if record.exc_text:
            record.exc_text = redacted(record.exc_text)
        if record.stack_info:
            record.stack_info = redacted(record.stack_info)
        return True


_FORMATTER = logging.Formatter()


def redact_logs() -> None:
    """Let no handler of the root logger write secrets; one that writes to stderr is made where there is none."""
    root = logging.getLogger()
    if not root.handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handler in root.handlers:
        if not any(isinstance(one, SecretFilter) for one in handler.filters):
            handler.addFilter(SecretFilter())
