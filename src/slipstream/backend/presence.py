"""How the engine gives Triton an occasion to say that the client of an ensemble has gone.

Only a step that Triton schedules anew can learn of it (see trailer.py), and while a request waits, or its prompt is
read, or it gives one response, its tokens lead to no such step. So every request of the ensemble takes a second step at
the engine, the watch. It is known by the id that preprocessing gave both. While the generation is silent, the watch
gives a response with no token and a trailer now and then; that goes to a step of postprocessing whose text nobody
gets, and which asks whether it is cancelled as for every other response. The watch ends just before the generation, so
that the ensemble's last response still carries the final flag.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.trailer import Trailer

_QUIET_S = 0.03
_LATE_S = 2.0  # the watch comes within milliseconds
# One beat costs about as much as a token's way to the client: with many silent requests they come more rarely.
_QUIET_S_EACH = 0.002


class Sender(Protocol):
    """The watch's way back to Triton."""

    def send(self, response: Any) -> None:
        """Send one response that is not the last."""

    def end(self) -> None:
        """Send the final flag."""


class Presence:
    """The watch of one request, and the generations that it stands for: one for each prompt."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave
        self._lock = threading.Lock()
        self._generations = 0
        self._sender: Sender | None = None
        self._is_over = False
        self._news_s = time.monotonic()
        self._afterwards: list[Callable[[], None]] = []  # wait for the watch to come and end

    def enter(self) -> None:
        """A generation begins."""
        with self._lock:
            self._generations += 1

    def attach(self, sender: Sender) -> None:
        """The watch has come."""
        with self._lock:
            if not self._is_over:
                self._sender = sender
                return
            sender.end()
            self._sender = sender
            afterwards, self._afterwards = self._afterwards, []
        for call in afterwards:
            call()
        self._leave()

    def touch(self) -> None:
        """A response of the generation went out, which serves as well as a beat."""
        self._news_s = time.monotonic()

    def beat(self, response: Callable[[], Any], quiet_s: float) -> None:
        """Send `response` if there was no news for `quiet_s`."""
        now_s = time.monotonic()
        if self._sender is None or now_s < self._news_s + quiet_s:
            return
        with self._lock:
            if not self._is_over:
                self._news_s = now_s
                self._sender.send(response())

    def end(self, then: Callable[[], None]) -> None:
        """A generation is over; the watch ends with the last of them, and `then` is called when it has.

        An error that comes while the watch is on its way would end the ensemble's request beside it: Triton 2.51 then
        answers twice, never, or dies. So `then`, which sends the last response, waits for the watch.
        """
        with self._lock:
            self._generations -= 1
            if self._generations <= 0 and not self._is_over:
                self._is_over = True
                if self._sender is not None:
                    self._sender.end()
            if self._is_over and self._sender is None:
                self._wait_for_watch(then)
                return
            is_left = self._is_over
        then()
        if is_left:
            self._leave()

    def _wait_for_watch(self, then: Callable[[], None]) -> None:
        self._afterwards.append(then)
        late = threading.Timer(_LATE_S, self._give_up)
        late.daemon = True
        late.start()

    def _give_up(self) -> None:
        """The watch has not come, which Triton gives no reason to expect: answer all the same."""
        with self._lock:
            afterwards, self._afterwards = self._afterwards, []
        for call in afterwards:
            call()
        if afterwards:
            self._leave()


class Presences:
    """The watches of all requests in flight, by the id that preprocessing gave."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, Presence] = {}

    @property
    def quiet_s(self) -> float:
        """How long a generation may be silent without a beat."""
        return max(_QUIET_S, _QUIET_S_EACH * len(self._open))

    def enter(self, presence_id: int) -> Presence:
        """The presence of a generation that begins; its `end` must follow."""
        with self._lock:
            presence = self._open.setdefault(presence_id, Presence(lambda: self._forget(presence_id)))
        presence.enter()
        return presence

    def attach(self, presence_id: int, sender: Sender) -> None:
        """Take a watch; it comes behind its generation, and ends at once if that is over or was refused."""
        with self._lock:
            presence = self._open.get(presence_id)
        if presence is None:
            sender.end()
        else:
            presence.attach(sender)

    def _forget(self, presence_id: int) -> None:
        with self._lock:
            self._open.pop(presence_id, None)


def beat_tensors(handle: int) -> dict[str, NDArray[Any]]:
    """A response of no tokens and the trailer of generation `handle`."""
    trailer = Trailer(handle=handle, tokens_before=0, is_last=False, only_special_before=False)
    return {
        "output_ids": np.array([[trailer.as_ids()]], np.int32),
        "sequence_length": np.zeros((1, 1), np.int32),
    }
