"""The BLS model's end of the link: one connection and one reading thread for all streams."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Protocol

from slipstream.backend.bls_call import EngineFailedError
from slipstream.backend.link import Answer, Ask, Withdraw, link_address
from slipstream.backend.tensors import Tensors

NOT_THERE = "the engine's model is not there: it is being loaded, or its process died; send the request again"
BROKEN = "the engine's process died and is being restarted: send the request again"
_GAP_WEIGHT = 0.2
_LONGEST_GAP_S = 0.1  # what is longer may be a pause


class Receiver(Protocol):
    """Who asked."""

    def take(self, answer: Answer) -> None:
        """Take one answer, on the link's thread."""

    def lose(self, reason: str) -> None:
        """No answer will come any more."""


class LinkClient:
    """Asks the engine's model of the same server; connects when it is first needed, and again after a break."""

    def __init__(self, model: str) -> None:
        self._address = link_address(os.getppid(), model)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._line: _Line | None = None

    def ask(
        self,
        tensors: Tensors,
        receiver: Receiver,
        *,
        outputs: frozenset[str],
        parameters: Mapping[str, str],
        timeout_us: int,
    ) -> Asked:
        """Begin a request; `EngineFailedError` when the engine's model cannot be reached."""
        number = next(self._numbers)
        ask = Ask(
            number=number, tensors=dict(tensors), outputs=outputs, parameters=dict(parameters), timeout_us=timeout_us
        )
        with self._lock:
            if self._line is None or self._line.is_over:
                self._line = _connect(self._address)
            line = self._line
        line.ask(ask, receiver)
        return Asked(line, number)

    @property
    def step_s(self) -> float:
        """Between two messages of the engine, lately: it sends one a step."""
        line = self._line
        return 0.0 if line is None else line.gap_s

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._line is not None:
                self._line.close()


class Asked:
    """A request on its way."""

    def __init__(self, line: _Line, number: int) -> None:
        self._line = line
        self._number = number

    def withdraw(self) -> None:
        """End it: nobody wants it any more."""
        self._line.send(Withdraw(self._number))


class _Line:
    """One connection and who waits on it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._channel: Connection[Ask | Withdraw, list[Answer]] = Connection(os.dup(connection.fileno()))
        self._lock = threading.Lock()
        self._receivers: dict[int, Receiver] = {}
        self.is_over = False
        self.gap_s = 0.0  # between two messages, lately
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def ask(self, ask: Ask, receiver: Receiver) -> None:
        with self._lock:
            if self.is_over:
                raise EngineFailedError(BROKEN)
            self._receivers[ask.number] = receiver
        self.send(ask)

    def send(self, message: Ask | Withdraw) -> None:
        """Pass `message` on; a broken connection is noticed by the reader."""
        with self._lock, contextlib.suppress(OSError):
            self._channel.send(message)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        before_s = time.monotonic()
        while (answers := self._receive()) is not None:
            now_s = time.monotonic()
            self.gap_s += _GAP_WEIGHT * (min(now_s - before_s, _LONGEST_GAP_S) - self.gap_s)
            before_s = now_s
            for answer in answers:
                if answer.is_final:
                    with self._lock:
                        receiver = self._receivers.pop(answer.number, None)
                else:
                    receiver = self._receivers.get(answer.number)
                if receiver is not None:
                    receiver.take(answer)
        with self._lock:
            self.is_over = True
            left = list(self._receivers.values())
            self._receivers.clear()
            self._socket.close()
            self._channel.close()
        for receiver in left:
            receiver.lose(BROKEN)

    def _receive(self) -> list[Answer] | None:
        try:
            return self._channel.recv()
        except (EOFError, OSError):
            return None


def _connect(address: str) -> _Line:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(address)
    except OSError as error:
        connection.close()
        raise EngineFailedError(NOT_THERE) from error
    return _Line(connection)
