"""An interruption inside a deferred block comes at its end, and not at all is not an option."""

from __future__ import annotations

import os
import signal

import pytest

from slipstream.interrupts import deferred_interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_for_the_end_of_the_block(number: signal.Signals) -> None:
    steps: list[str] = []

    def block() -> None:
        with deferred_interrupts():
            os.kill(os.getpid(), number)
            steps.append("whole")

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        block()
    assert steps == ["whole"]
    assert signal.getsignal(number) is before


def test_a_block_without_an_interruption_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
