"""HTTP written by hand, for what no client library would send."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


def ask(url: str, body: object = None, headers: dict[str, str] | None = None, method: str | None = None) -> Answer:
    """One request by a library; a status is no exception."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return Answer(status=answer.status, headers=_lower(answer.headers), body=answer.read())
    except urllib.error.HTTPError as error:
        return Answer(status=error.code, headers=_lower(error.headers), body=error.read())


def connect(base: str, *, receive_buffer: int | None = None) -> socket.socket:
    """A bare connection to the server at `base`."""
    where = urlsplit(base)
    assert where.hostname is not None
    assert where.port is not None
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(10)
    connection.connect((where.hostname, where.port))
    return connection


def exchange(base: str, *parts: bytes) -> Answer:
    """Send `parts` and read the answer; the server may close while they are still being sent."""
    with connect(base) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return parse(_one_answer(connection))


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def _one_answer(connection: socket.socket) -> bytes:
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
            answer = parse(received)
            if answer.status and len(answer.body) == int(answer.headers.get("content-length", -1)):
                break
    except ConnectionResetError:
        pass
    return received


def parse(received: bytes) -> Answer:
    """The first answer in `received`; status 0 for none."""
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        return Answer(status=0, headers={}, body=received)
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return Answer(status=int(lines[0].split()[1]), headers=headers, body=body)


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
