"""Progress of long work: a live line on a terminal, plain lines in a log. Everything goes to stderr."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TextIO

_PLAIN_PERIOD_S = 5.0  # a log gets a line per message, but a moving percentage only this often
_NUMBER = re.compile(r"\d+")


class Reporter(Protocol):
    """Receives what a stage is doing; `fraction` in 0..1 where the amount of work is known."""

    def __call__(self, message: str, fraction: float | None = None) -> None: ...


def silent(message: str, fraction: float | None = None) -> None:
    """Reporter that says nothing."""


@contextmanager
def reporting(stage: str, stream: TextIO | None = None) -> Iterator[Reporter]:
    """A reporter for `stage`: a spinner while the block runs if the stream is a terminal, else plain lines."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield _PlainLines(stage, stream)
        return
    from rich.console import Console

    with Console(file=stream, highlight=False).status(f"{stage:<16}", spinner="dots") as status:

        def live(message: str, fraction: float | None = None) -> None:
            status.update(f"{stage:<16} {_with_percent(message, fraction)}")

        yield live


def finished(stage: str, text: str, seconds: float | None = None, stream: TextIO | None = None) -> None:
    """One line for a stage that is done."""
    stream = stream or sys.stderr
    mark = "✓" if _can_print("✓", stream) else "ok"
    took = "" if seconds is None else f"{seconds:8.1f} s"
    print(f"{mark} {stage:<16} {text:<58}{took}".rstrip(), file=stream, flush=True)


@dataclass(slots=True)
class _PlainLines:
    stage: str
    stream: TextIO
    last_kind: str = ""
    last_time: float = 0.0

    def __call__(self, message: str, fraction: float | None = None) -> None:
        now = time.monotonic()
        kind = _NUMBER.sub("#", message)  # `layer 7 of 30` says nothing new after `layer 6 of 30`
        if kind == self.last_kind and now - self.last_time < _PLAIN_PERIOD_S:
            return
        self.last_kind, self.last_time = kind, now
        print(f"  {self.stage:<16} {_with_percent(message, fraction)}", file=self.stream, flush=True)


def _with_percent(message: str, fraction: float | None) -> str:
    return message if fraction is None else f"{message}  {fraction:4.0%}"


def _can_print(text: str, stream: TextIO) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True
