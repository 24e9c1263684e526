"""Keeps the responses of a call until Triton's Python backend has let go of them.

The backend (2.51, `Stub::SendCleanupId`) forgets the iterator of a finished call in a thread of its own that does not
hold Python's lock. Is nothing else left that refers to it, that thread frees the arrays of all its responses beside
whatever Python does at the moment: the heap is torn, and the process dies, after a few thousand calls where it is busy.
So a finished iterator stays here until that thread is done with it. It does its work in the order it was told of, and
it also carries the question whether a request is cancelled: an answer means that all before it has been done.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

_LONGEST_S = 60.0  # that thread needs less than a millisecond for one iterator


class KeptResponses:
    """The finished iterators of this process; may be used from several threads."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._kept: deque[tuple[float, Any]] = deque()

    def keep(self, iterator: Any) -> None:
        """Keep `iterator`, whose last response has been read; those kept for a minute are let go."""
        now_s = self._now_s()
        with self._lock:
            self._kept.append((now_s, iterator))
            while self._kept[0][0] < now_s - _LONGEST_S:
                self._kept.popleft()

    def release(self, is_answered: Callable[[], bool]) -> None:
        """Let go of what was kept before, if `is_answered`: a question to Triton went there and came back."""
        with self._lock:
            kept, self._kept = self._kept, deque()
        if not is_answered():
            with self._lock:
                self._kept.extendleft(reversed(kept))


KEPT = KeptResponses()
