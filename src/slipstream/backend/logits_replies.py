"""Replies that wait for logits: the last response of a generation is held back until they are computed."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.engine import Reply
from slipstream.backend.logits import LogitsWish, Pass, cut, pass_for
from slipstream.backend.stream import Piece, Stream
from slipstream.backend.tensors import RequestRefusedError
from slipstream.errors import SlipstreamError

_MOST_WAITING = 64


class Passes(Protocol):
    """Where logits are computed."""

    def rows(self, wanted: Pass) -> NDArray[np.float32]:
        """The logits of one pass; `SlipstreamError` when there are none."""

    def kill(self) -> None:
        """End it from any thread, also during a pass."""

    def close(self) -> None:
        """Release it; call it from the thread that computes."""


Rows: TypeAlias = Callable[[Pass], NDArray[np.float32]]
Job: TypeAlias = Callable[[Rows], None]


class LogitsQueue:
    """One pass after the other, on a thread of its own: the engine's streams do not wait for them."""

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="logits", daemon=True)
        self._thread.start()

    def admit(self) -> None:
        """`RequestRefusedError` when too many wait already."""
        waiting = self._queue.qsize()
        if waiting >= _MOST_WAITING:
            raise RequestRefusedError(f"{waiting} requests wait for logits, the limit is {_MOST_WAITING}: try later")

    def put(self, job: Job) -> None:
        """Run `job` when those before it are done; it answers its request whatever its pass comes to."""
        self._queue.put(job)

    def close(self) -> None:
        """Fail what waits, and end the process."""
        self.abandon()
        self._queue.put(None)
        self._thread.join()

    def abandon(self) -> None:
        """End the process and wait for nothing."""
        self._is_closing.set()
        self._passes.kill()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            job(self._rows)
        self._passes.close()

    def _rows(self, wanted: Pass) -> NDArray[np.float32]:
        if self._is_closing.is_set():
            raise SlipstreamError("the model is being unloaded", mend="send the request again when it is loaded")
        return self._passes.rows(wanted)


class LogitsReply:
    """`reply`, with logits in the last response of every generation that wishes for them."""

    def __init__(self, reply: Reply, queue: LogitsQueue) -> None:
        self._reply = reply
        self._queue = queue
        self._output_ids: defaultdict[int, list[int]] = defaultdict(list)  # by the generation's handle

    @property
    def asks_server(self) -> bool:
        """`is_cancelled` takes a round trip to the server."""
        return self._reply.asks_server

    def send(self, stream: Stream, piece: Piece) -> None:
        """Send one response; the last one later."""
        self._output_ids[stream.handle] += piece.ids
        if piece.is_last and (wish := stream.request.logits) is not None:
            self._queue.put(lambda rows: self._finish(stream, piece, wish, rows))
        else:
            self._reply.send(stream, piece)

    def fail(self, stream: Stream, message: str) -> None:
        """End the generation with an error."""
        self._reply.fail(stream, message)

    def is_cancelled(self) -> bool:
        """The client has gone away."""
        return self._reply.is_cancelled()

    def beat(self, stream: Stream, step_s: float) -> None:
        """Let the ensemble ask whether its client is still there."""
        self._reply.beat(stream, step_s)

    def _finish(self, stream: Stream, piece: Piece, wish: LogitsWish, rows: Rows) -> None:
        prompt_ids, output_ids = stream.request.prompt_ids, self._output_ids[stream.handle]
        try:
            if not self._reply.is_cancelled():
                found = rows(pass_for(wish, prompt_ids, output_ids))
                stream.logits = cut(found, wish, prompt_tokens=len(prompt_ids), output_tokens=len(output_ids))
        except SlipstreamError as error:
            self._reply.fail(stream, error.message)
        else:
            self._reply.send(stream, piece)
