"""The engine's end of the link: takes requests of the BLS model and sends what the engine brings, step by step."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from slipstream.backend.link import Answer, Ask, Withdraw, is_sibling, link_address
from slipstream.backend.responses import response_tensors
from slipstream.backend.stream import Piece, Stream

_SEND_TIMEOUT_S = 5  # of a sibling that takes nothing any more: the engine must not wait for it
_BIND_PAUSE_S = 0.2  # the model that is being replaced still holds the address


class LinkServer:
    """Listens, and hands each request to `take` on a thread of its connection.

    Answers are collected and go out with `flush`: those of one step in one message. `after_withdrawal` is called when
    a request has been withdrawn.
    """

    def __init__(
        self,
        server_process_id: int,
        model: str,
        take: Callable[[Ask, LinkReply], None],
        after_withdrawal: Callable[[], None] = lambda: None,
    ) -> None:
        self._after_withdrawal = after_withdrawal
        self._server_process_id = server_process_id
        self._address = link_address(server_process_id, model)
        self._take = take
        self._lock = threading.Lock()
        self._lines: list[_Line] = []
        self._is_closing = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._accept, name="link", daemon=True)
        self._thread.start()

    def flush(self) -> None:
        """Send what was collected."""
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            line.flush()

    def close(self) -> None:
        """Close the link; whoever still waits at the other end sees it broken."""
        self._is_closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            line.close()

    def _accept(self) -> None:
        if not self._bind():
            return
        while not self._is_closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if not is_sibling(connection, self._server_process_id):
                connection.close()
                continue
            line = _Line(connection)
            with self._lock:
                self._lines.append(line)
            threading.Thread(target=self._serve, args=(line,), name="link", daemon=True).start()

    def _bind(self) -> bool:
        while not self._is_closing.is_set():
            try:
                self._listener.bind(self._address)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                time.sleep(_BIND_PAUSE_S)
                continue
            self._listener.listen()
            return True
        return False

    def _serve(self, line: _Line) -> None:
        while (message := line.receive()) is not None:
            if isinstance(message, Withdraw):
                line.withdraw(message.number)
                self._after_withdrawal()
            else:
                self._take(message, LinkReply(line, message))
        with self._lock:
            self._lines.remove(line)
        line.close()


class _Line:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        limit = struct.pack("ll", _SEND_TIMEOUT_S, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._socket = connection
        self._channel: Connection[list[Answer], Ask | Withdraw] = Connection(os.dup(connection.fileno()))
        self._lock = threading.Lock()
        self._collected: list[Answer] = []
        self._withdrawn: set[int] = set()
        self.is_broken = False

    def receive(self) -> Ask | Withdraw | None:
        """The next message; none when the connection is over."""
        try:
            return self._channel.recv()
        except (EOFError, OSError):
            self.is_broken = True
            return None

    def collect(self, answer: Answer) -> None:
        """Keep `answer` for the next `flush`."""
        with self._lock:
            self._collected.append(answer)
            if answer.is_final:
                self._withdrawn.discard(answer.number)

    def flush(self) -> None:
        """Send what was collected; a connection that takes nothing is given up."""
        with self._lock:
            answers, self._collected = self._collected, []
            if not answers or self.is_broken:
                return
            try:
                self._channel.send(answers)
            except OSError:
                self.is_broken = True
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)  # its reader ends

    def withdraw(self, number: int) -> None:
        """Nobody waits for the request with `number`."""
        with self._lock:
            self._withdrawn.add(number)

    def is_withdrawn(self, number: int) -> bool:
        """Nobody waits for it any more, or nobody could be told."""
        return self.is_broken or number in self._withdrawn

    def close(self) -> None:
        """Release the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self.is_broken = True
            self._socket.close()
            self._channel.close()


class LinkReply:
    """The way back to the BLS model of one request, which may be several generations."""

    asks_server = False  # the BLS model does

    def __init__(self, line: _Line, ask: Ask) -> None:
        self._line = line
        self._number = ask.number
        self._outputs = ask.outputs
        self._generations_left = 1
        self._lock = threading.Lock()

    def expect(self, generations: int) -> None:
        """So many generations will answer; to be said before the first one does."""
        self._generations_left = generations

    def send(self, stream: Stream, piece: Piece) -> None:
        """Send one response with the others of its step; the last one of a generation goes at once."""
        prompt_ids = stream.request.prompt_ids if stream.request.wishes.echo_prompt else []
        best, *others = [[*prompt_ids, *beam.ids] for beam in piece.beams or (piece,)]
        self._line.collect(
            Answer(
                self._number,
                best,
                others,
                stream.request.place,
                dict(response_tensors(stream, piece, self._outputs)) if self._outputs else {},
                is_final=piece.is_last and self._is_last_end(),
            )
        )
        if piece.is_last:
            self._line.flush()

    def refuse(self, message: str) -> None:
        """End the request: it cannot be served as it is."""
        self._end(Answer(self._number, failure=message, is_tokens=False, is_final=True))

    def fail(self, _stream: Stream, message: str) -> None:
        """End a generation: the server could not serve it."""
        self._end(Answer(self._number, failure=message, is_tokens=False, is_final=self._is_last_end()))

    def is_cancelled(self) -> bool:
        """The client of the BLS model has gone away."""
        return self._line.is_withdrawn(self._number)

    def beat(self, _stream: Stream, _step_s: float) -> None:
        """Nothing to do: the BLS model says when its client has gone."""

    def _end(self, answer: Answer) -> None:
        self._line.collect(answer)
        self._line.flush()

    def _is_last_end(self) -> bool:
        with self._lock:
            self._generations_left -= 1
            return self._generations_left == 0
