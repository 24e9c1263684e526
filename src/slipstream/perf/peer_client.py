"""The client of the comparison with peers: any number of streams at once, over gRPC or HTTP, unread until they end.

One process for all servers. It notes when something came and leaves reading it for afterwards, so that what it costs is
small and about the same for each.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

TIMEOUT_S = 120.0  # of a turn


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTimes:
    """One reply, in seconds since it was asked for."""

    tokens: int
    first_s: float
    last_s: float

    @property
    def itl_s(self) -> float:
        """Mean time between two tokens."""
        return (self.last_s - self.first_s) / (self.tokens - 1)


async def stream_http(url: str, bodies: Sequence[dict[str, object]]) -> list[StreamTimes]:
    """Server-sent events of `bodies`, sent together."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:

        async def read(body: dict[str, object]) -> list[tuple[float, bytes]]:
            sent = time.monotonic()
            async with session.post(url, json=body) as answer:
                answer.raise_for_status()
                return [(time.monotonic() - sent, piece) async for piece in answer.content.iter_any()]

        return [times_of_events(pieces) for pieces in await asyncio.gather(*map(read, bodies))]


async def stream_grpc(address: str, messages: Sequence[bytes]) -> list[StreamTimes]:
    """Replies of Triton to `messages`, sent together."""
    from grpc import aio

    from slipstream.client.wire import STREAM_INFER

    async with aio.insecure_channel(address) as channel:
        infer = channel.unary_stream(STREAM_INFER)

        async def read(message: bytes) -> list[tuple[float, bytes]]:
            call, sent, responses = infer(message, timeout=TIMEOUT_S), time.monotonic(), []
            while (response := await call.read()) is not aio.EOF:
                responses.append((time.monotonic() - sent, response))
            return responses

        return [_times_of_responses(replies) for replies in await asyncio.gather(*map(read, messages))]


def times_of_events(pieces: Sequence[tuple[float, bytes]]) -> StreamTimes:
    """When the first and the last token came, from pieces of an event stream as they arrived.

    The count is the server's own (`usage` or `tokens_predicted`); events without text after the first do not count.
    """
    buffer, first_s, last_s, tokens = b"", 0.0, 0.0, 0
    for at_s, piece in pieces:
        buffer += piece
        *events, buffer = buffer.replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            _, is_data, data = event.partition(b"data: ")
            if not is_data or data == b"[DONE]":
                continue
            facts = json.loads(data)
            if "error" in facts:
                raise RuntimeError(str(facts["error"]))
            choices = facts.get("choices", [{"text": facts.get("content", "")}])
            if choices and choices[0].get("text"):
                first_s, last_s = first_s or at_s, at_s
            tokens = (facts.get("usage") or {}).get("completion_tokens") or facts.get("tokens_predicted") or tokens
    return StreamTimes(tokens=tokens, first_s=first_s, last_s=last_s)


def _times_of_responses(responses: Sequence[tuple[float, bytes]]) -> StreamTimes:
    from tritonclient.grpc import service_pb2

    from slipstream.client.tensors import ints, raw_outputs

    tokens, at_s = 0, []
    for came_s, message in responses:
        response = service_pb2.ModelStreamInferResponse.FromString(message)
        if response.error_message:
            raise RuntimeError(response.error_message)
        outputs = raw_outputs(response.infer_response)
        counts = ints(outputs.get("num_output_tokens", b"")) or ints(outputs.get("sequence_length", b""))
        if counts and counts[0]:
            tokens += counts[0]
            at_s.append(came_s)
    return StreamTimes(tokens=tokens, first_s=at_s[0], last_s=at_s[-1])
