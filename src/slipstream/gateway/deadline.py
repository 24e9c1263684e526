"""Until when an answer has to begin."""

from __future__ import annotations

from collections.abc import Mapping

_FACTORS = {
    "x-request-deadline-ms": 1e-3,
    # What OpenAI's and Anthropic's SDKs are set to: after so long without a byte they hang up and ask again.
    "x-stainless-read-timeout": 1.0,
}


def deadline_at(headers: Mapping[str, str], received_at: float) -> float | None:
    """The earliest of what the request's headers say; None if they say nothing that can be read."""
    given = [
        received_at + float(value) * factor
        for name, factor in _FACTORS.items()
        if _is_number(value := headers.get(name, ""))
    ]
    return min(given, default=None)


def _is_number(text: str) -> bool:
    """Plain decimals of a sane length."""
    return len(text) <= 16 and text.isascii() and text.replace(".", "", 1).isdigit()
