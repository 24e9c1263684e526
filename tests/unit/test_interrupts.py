"""An interruption inside a deferred block comes at its end, and not at all is not an option."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from slipstream.interrupts import deferred_interrupts

# In a process of its own: OpenVINO's CPU plugin, which other tests load into this one, leaves an alternate signal
# stack behind that is gone when the plugin is unloaded, and the next signal then ends the process.
INTERRUPTED = """
import os, signal
from slipstream.interrupts import deferred_interrupts

number = signal.Signals[{name!r}]
before = signal.getsignal(number)
try:
    with deferred_interrupts():
        os.kill(os.getpid(), number)
        print("whole")
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(number) is before)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interruption_waits_for_the_end_of_the_block(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(name=name)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "whole\ninterrupted True\n"), done.stderr


def test_a_block_without_an_interruption_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
