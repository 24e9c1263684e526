"""Ctrl-C and `kill -TERM` where an exception in the middle would do harm."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Hold interruptions back until the block ends, then raise KeyboardInterrupt.

    For imports of large packages: a KeyboardInterrupt that passes through C code which runs Python source (torch's
    bindings do) marks the interpreter so that it kills itself with SIGINT at exit, though the exception was handled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda got, _frame: received.append(got)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt
