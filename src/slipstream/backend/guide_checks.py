"""Guides on their way to the engine: each is tried out once, and only the requests that bring new ones wait for it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol, TypeAlias

from slipstream.backend.guide import GUIDE, Guide
from slipstream.backend.tensors import RequestRefusedError
from slipstream.errors import SlipstreamError

_MOST_WAITING = 64
_MOST_REMEMBERED = 256
_CLOSING = "the model is being unloaded"

Then: TypeAlias = Callable[[str], None]  # takes the refusal, empty when the guide can be followed


class TrialProcess(Protocol):
    """Where guides are tried out."""

    def refusal(self, guide: Guide) -> str:
        """Why `guide` cannot be followed, empty when it can; `SlipstreamError` when none can be tried."""

    def kill(self) -> None:
        """End it from any thread, also while a guide is being tried."""

    def close(self) -> None:
        """Release it; call it from the thread that tries guides."""


class GuideChecks:
    """Tries guides one after the other on a thread of its own, and remembers what came of them.

    A request that waits here is not yet known to the engine: a `stop` by its id comes too early.
    """

    def __init__(self, process: TrialProcess) -> None:
        self._process = process
        self._queue: SimpleQueue[tuple[Guide, Then] | None] = SimpleQueue()
        self._known: OrderedDict[Guide, str] = OrderedDict()
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guides", daemon=True)
        self._thread.start()

    def settle(self, guide: Guide, then: Then) -> None:
        """Call `then`: now where the guide is known, otherwise later and from the thread of the checks.

        `RequestRefusedError` when too many wait already.
        """
        with self._lock:
            known = self._known.get(guide)
        if known is not None:
            then(known)
            return
        waiting = self._queue.qsize()
        if waiting >= _MOST_WAITING:
            raise RequestRefusedError(f"{GUIDE}: {waiting} guides wait to be compiled, the limit is that: try later")
        self._queue.put((guide, then))

    def close(self) -> None:
        """Refuse what waits and end the process."""
        self._is_closing.set()
        self._queue.put(None)
        self._process.kill()
        self._thread.join()

    def abandon(self) -> None:
        """End the process and wait for nothing."""
        self._is_closing.set()
        self._process.kill()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            guide, then = item
            refusal = "" if self._is_closing.is_set() else self._refusal(guide)
            then(_CLOSING if self._is_closing.is_set() else refusal)
        self._process.close()

    def _refusal(self, guide: Guide) -> str:
        with self._lock:
            known = self._known.get(guide)
        if known is not None:  # an equal one came before it in the queue
            return known
        try:
            reason = self._process.refusal(guide)
        except SlipstreamError as error:
            return error.message
        refusal = f"{GUIDE}: the engine cannot follow this {guide.kind}: {reason}" if reason else ""
        with self._lock:
            self._known[guide] = refusal
            if len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)
        return refusal
