"""A Triton of one stub model, fast enough to measure what stands before it: gRPC on HTTP/2, and OpenAI's API beside it.

Every `step_ms` each running request gets one token, as an engine's step gives them; at 0 it gets all of them at once.
What it sends is made beforehand but for the token. It understands as much HTTP/2 as this takes, and checks nothing.

Run: python -m slipstream.perf.stub_triton STEP_MS; prints its two ports, gRPC and HTTP.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import orjson

_PREFACE_BYTES = 24
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _WINDOW = 0, 1, 3, 4, 6, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_LARGEST_WINDOW = 2**31 - 1
_TOKENS = (504, 2365, 6354, 16438, 28, 284, 260, 1357, 282, 3585)  # any, of plain words in most vocabularies
_MARK = 0x7A6B5C4D
_MARK_BYTES = struct.pack("<i", _MARK)


class Steps:
    """What is running, and the clock that feeds it."""

    def __init__(self, step_ms: float) -> None:
        self._step_s = step_ms / 1000
        self._running: dict[object, Iterator[None]] = {}

    def begin(self, key: object, tokens: Iterator[None]) -> None:
        """Give `tokens` a turn every step until they end or `drop` is called."""
        if self._step_s:
            self._running[key] = tokens
        else:
            for _ in tokens:
                pass

    def drop(self, key: object) -> None:
        self._running.pop(key, None)

    async def run(self) -> None:
        """Step forever."""
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        while True:
            next_s = max(next_s + self._step_s, loop.time()) if self._step_s else next_s + 3600
            await asyncio.sleep(next_s - loop.time())
            for key, tokens in list(self._running.items()):
                if next(tokens, self) is self:
                    self.drop(key)


@dataclass(slots=True)
class _Stream:
    body: bytes = b""


class GrpcFace(asyncio.Protocol):
    """One connection of a gRPC client."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._buffer = b""
        self._has_preface = False
        self._streams: dict[int, _Stream] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no subclass
        self._write = transport.write
        windows = struct.pack("!HI", 4, _LARGEST_WINDOW) + struct.pack("!HI", 3, 100_000)
        self._write(_frame(_SETTINGS, 0, 0, windows) + _frame(_WINDOW, 0, 0, struct.pack("!I", 2**30)))

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        for stream_id in self._streams:
            self._steps.drop((self, stream_id))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        start = 0
        if not self._has_preface and len(buffer) >= _PREFACE_BYTES:
            self._has_preface, start = True, _PREFACE_BYTES
        while self._has_preface and len(buffer) - start >= 9:
            length = int.from_bytes(buffer[start : start + 3], "big")
            if len(buffer) - start < 9 + length:
                break
            stream_id = int.from_bytes(buffer[start + 5 : start + 9], "big")
            self._take(buffer[start + 3], buffer[start + 4], stream_id, buffer[start + 9 : start + 9 + length])
            start += 9 + length
        self._buffer = buffer[start:]

    def _take(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, payload))
        elif kind == _HEADERS:
            self._streams[stream_id] = _Stream()
        elif kind == _RST:
            self._streams.pop(stream_id, None)
            self._steps.drop((self, stream_id))
        elif kind == _DATA and stream_id in self._streams:
            self._streams[stream_id].body += payload
            if flags & _END_STREAM:
                request = self._streams.pop(stream_id).body[5:]
                self._steps.begin((self, stream_id), self._tokens(stream_id, request))

    def _tokens(self, stream_id: int, request: bytes) -> Iterator[None]:
        message = _Response(request)
        head = _frame(_HEADERS, _END_HEADERS, stream_id, b"\x88" + _literal(b"content-type", b"application/grpc"))
        for number in range(message.tokens):
            self._write(head + _message_frame(stream_id, message.with_token(_TOKENS[number % len(_TOKENS)])))
            head = b""
            yield
        trailers = _frame(_HEADERS, _END_HEADERS | _END_STREAM, stream_id, _literal(b"grpc-status", b"0"))
        self._write(_message_frame(stream_id, message.final) + trailers)


class _Response:
    """The messages that answer one request."""

    def __init__(self, request: bytes) -> None:
        from tritonclient.grpc import service_pb2 as pb

        asked = pb.ModelInferRequest.FromString(request)
        inputs = dict(zip([one.name for one in asked.inputs], asked.raw_input_contents, strict=True))
        (self.tokens,) = struct.unpack("<i", inputs["request_output_len"])
        message = pb.ModelStreamInferResponse()
        response = message.infer_response
        response.model_name, response.model_version, response.id = asked.model_name, "1", asked.id
        response.parameters["triton_final_response"].bool_param = True
        self.final = message.SerializeToString()
        response.parameters["triton_final_response"].bool_param = False
        response.outputs.add(name="output_ids", datatype="INT32", shape=[1, 1, 1])
        response.outputs.add(name="sequence_length", datatype="INT32", shape=[1, 1])
        response.raw_output_contents.extend([_MARK_BYTES, struct.pack("<i", 1)])
        serialized: bytes = message.SerializeToString()
        self._before, self._after = serialized.split(_MARK_BYTES)

    def with_token(self, token: int) -> bytes:
        return self._before + struct.pack("<i", token) + self._after


class OpenAiFace(asyncio.Protocol):
    """One connection of an HTTP client: chat completions, whole or streamed."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no subclass
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._steps.drop(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, is_whole, body = self._buffer.partition(b"\r\n\r\n")
        if not is_whole:
            return
        length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
        if len(body) < int(length.split(b":")[1]):
            return
        self._buffer = b""
        self._steps.begin(self, self._answer(json.loads(body) if body else {}))

    def _answer(self, request: dict[str, object]) -> Iterator[None]:
        tokens = int(str(request.get("max_completion_tokens") or request.get("max_tokens") or 1))
        if not request.get("stream"):
            for _ in range(tokens - 1):
                yield
            self._transport.write(_whole(_WORD * tokens, tokens))
            yield
            return
        self._transport.write(_STREAM_HEAD)
        for number in range(tokens):
            self._transport.write(_chunked(_event({"role": "assistant", "content": _WORD} if not number else _PIECE)))
            yield
        self._transport.write(_chunked(_event({}, "stop")) + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")


_WORD = " word"
_PIECE = {"content": _WORD}
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return b"data: " + orjson.dumps(_head("chat.completion.chunk") | {"choices": [choice]}) + b"\n\n"


def _whole(text: str, tokens: int) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}
    usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
    body = orjson.dumps(_head("chat.completion") | {"choices": [choice], "usage": usage})
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _head(kind: str) -> dict[str, object]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "stub", "system_fingerprint": None}


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack("!HBBBI", len(payload) >> 8, len(payload) & 255, kind, flags, stream_id) + payload


def _message_frame(stream_id: int, message: bytes) -> bytes:
    return _frame(_DATA, 0, stream_id, struct.pack("!BI", 0, len(message)) + message)


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field that is not indexed, in HPACK's plainest form."""
    return b"\x00%c%b%c%b" % (len(name), name, len(value), value)


async def _serve(step_ms: float) -> None:
    loop, steps = asyncio.get_running_loop(), Steps(step_ms)
    faces = [
        await loop.create_server(lambda face=face: face(steps), "127.0.0.1", 0)  # type: ignore[misc]
        for face in (GrpcFace, OpenAiFace)
    ]
    print(*(face.sockets[0].getsockname()[1] for face in faces), flush=True)
    await steps.run()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(float(sys.argv[1])))
