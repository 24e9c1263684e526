"""What was read from a file, read again when the file changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from slipstream.errors import SlipstreamError

_LOOK_EVERY_S = 1.0
_log = logging.getLogger(__name__)

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """Looks at the file at most once a second, when it is asked.

    A file that cannot be understood any more leaves what was read before in force, and is logged. A file that is gone
    leaves `empty` in force: who removes the keys wants nobody to get in.
    """

    def __init__(
        self, path: Path, read: Callable[[Path], T], *, empty: T, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._read = read
        self._empty = empty
        self._now = now
        self._looked_at = now()
        self._stamp = _stamp(path)
        self._value = read(path)

    def get(self) -> T:
        """What the file holds."""
        now = self._now()
        if now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = now
            self._look()
        return self._value

    def _look(self) -> None:
        stamp = _stamp(self.path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        if stamp is None:
            _log.error("%s is gone: what it held is no longer in force", self.path)
            self._value = self._empty
            return
        try:
            self._value = self._read(self.path)
        except SlipstreamError as error:
            _log.error("%s; what it held before stays in force", error.message)
        else:
            _log.info("%s was read again", self.path)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
