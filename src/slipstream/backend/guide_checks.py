"""Guides on their way to the engine: each is tried out once, and only the requests that bring new ones wait for it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol, TypeAlias

from slipstream.backend.guide import GUIDE, Guide
from slipstream.backend.tensors import RequestRefusedError
from slipstream.errors import SlipstreamError

_MOST_WAITING = 64
_MOST_REMEMBERED = 256
_CLOSING = "the model is being unloaded"

Then: TypeAlias = Callable[["Verdict"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a guide, and of its request meanwhile."""

    refusal: str  # empty when the guide can be followed
    is_stopped: bool  # somebody asked for the end of the request by its id


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiting:
    guide: Guide
    request_id: str  # Triton's, often empty
    then: Then
    is_stopped: bool = False


class TrialProcess(Protocol):
    """Where guides are tried out."""

    def refusal(self, guide: Guide) -> str:
        """Why `guide` cannot be followed, empty when it can; `SlipstreamError` when none can be tried."""

    def kill(self) -> None:
        """End it from any thread, also while a guide is being tried."""

    def close(self) -> None:
        """Release it; call it from the thread that tries guides."""


class GuideChecks:
    """Tries guides one after the other on a thread of its own, and remembers what came of them."""

    def __init__(self, process: TrialProcess) -> None:
        self._process = process
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._waiting: list[_Waiting] = []  # what the queue holds, and what is being tried
        self._known: OrderedDict[Guide, str] = OrderedDict()
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guides", daemon=True)
        self._thread.start()

    def settle(self, guide: Guide, request_id: str, then: Then) -> None:
        """Call `then`: now where the guide is known, otherwise later and from the thread of the checks.

        `RequestRefusedError` when too many wait already.
        """
        with self._lock:
            known = self._known.get(guide)
            if known is None:
                self._wait(_Waiting(guide=guide, request_id=request_id, then=then))
                return
        then(Verdict(refusal=known, is_stopped=False))

    def stop(self, request_id: str) -> None:
        """End the requests of this id that wait here: the engine does not know them yet."""
        with self._lock:
            for waiting in self._waiting:
                waiting.is_stopped = waiting.is_stopped or waiting.request_id == request_id

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

    def _wait(self, request: _Waiting) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            raise RequestRefusedError(
                f"{GUIDE}: {len(self._waiting)} guides wait to be compiled, the limit is {_MOST_WAITING}: try later"
            )
        self._waiting.append(request)
        self._queue.put(request)

    def _run(self) -> None:
        while (request := self._queue.get()) is not None:
            refusal = "" if self._is_closing.is_set() else self._refusal(request.guide)
            with self._lock:
                self._waiting.remove(request)
            if self._is_closing.is_set():
                refusal = _CLOSING
            request.then(Verdict(refusal=refusal, is_stopped=request.is_stopped))
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
