"""A way to a server on which what it says takes its time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def delayed(port: int, *, by_s: float) -> Iterator[str]:
    """The address of a door to `port` that passes on what the server says only `by_s` after the connection is made."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_pass_on, args=(listener, port, by_s), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def _pass_on(listener: socket.socket, port: int, by_s: float) -> None:
    with suppress(OSError):  # the listener is closed
        while True:
            caller, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=_pump, args=(caller, server, 0.0), daemon=True).start()
            threading.Thread(target=_pump, args=(server, caller, by_s), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket, by_s: float) -> None:
    time.sleep(by_s)
    with suppress(OSError), source, target:
        while data := source.recv(65536):
            target.sendall(data)
