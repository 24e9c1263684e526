"""Reading the events of a soak: an end is told from a connection that broke."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from slipstream.perf.soak_cases import events

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"text_output": "a"}\n\n'
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)


@contextmanager
def server_of(answer: bytes) -> Iterator[str]:
    """A server that gives `answer` once and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_events_that_end_are_read_to_the_end() -> None:
    with server_of(HEAD + CHUNK + CHUNK + b"0\r\n\r\n") as address:
        assert list(events(address, "ensemble", {})) == ["a", "a"]


@pytest.mark.parametrize("broken", [CHUNK, CHUNK[:-5]], ids=["between chunks", "inside a chunk"])
def test_a_connection_that_broke_is_no_end(broken: bytes) -> None:
    with server_of(HEAD + CHUNK + broken) as address, pytest.raises((http.client.HTTPException, OSError)):
        list(events(address, "ensemble", {}))
