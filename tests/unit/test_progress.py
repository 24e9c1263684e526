"""Progress: plain lines where nobody watches, a live line on a terminal, results untouched."""

from __future__ import annotations

import contextlib
import io
import os
import pty
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipstream.progress import finished, reporting


def plain(*reports: tuple[str, float | None]) -> list[str]:
    stream = io.StringIO()
    with reporting("engine", stream) as report:
        for message, fraction in reports:
            report(message, fraction)
    return stream.getvalue().splitlines()


def test_a_log_gets_one_line_for_each_new_message() -> None:
    assert plain(("reading", None), ("writing", 0.5)) == [
        "  engine           reading",
        "  engine           writing   50%",
    ]


def test_a_log_is_not_flooded_by_a_counter() -> None:
    lines = plain(*((f"layer {number} of 30", number / 30) for number in range(1, 31)), ("writing", None))
    assert lines == ["  engine           layer 1 of 30    3%", "  engine           writing"]


def test_a_finished_stage_is_one_line(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="utf-8") as stream:
        finished("engine", "openvino  164 MB", 4.25, stream)
    assert (tmp_path / "out").read_text(encoding="utf-8").split() == [
        "✓",
        "engine",
        "openvino",
        "164",
        "MB",
        "4.2",
        "s",
    ]


def test_a_terminal_that_knows_only_ascii_gets_ascii(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as stream:
        finished("engine", "done", None, stream)
    assert (tmp_path / "out").read_text() == "ok engine           done\n"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_a_terminal_shows_what_is_going_on_and_is_left_clean() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, reporting("engine", terminal) as report:
        report("writing", 0.5)
    shown = "".join(_everything(ours))
    os.close(ours)
    assert "engine" in shown
    assert "\x1b[?25h" in shown  # the cursor is back


def _everything(terminal: int) -> Iterator[str]:
    """All that was written to a terminal whose other side is closed; Linux ends it with an error."""
    with contextlib.suppress(OSError):
        while chunk := os.read(terminal, 65536):
            yield chunk.decode()
