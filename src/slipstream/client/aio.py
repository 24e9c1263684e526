"""The async client: the same thin shell as the blocking one, over a connection of its own (see http2.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import aio

from slipstream.client.calls import Calls
from slipstream.client.http2 import Http2Channel
from slipstream.client.http2_call import Http2Call
from slipstream.client.reply import Reply
from slipstream.client.values import Chunk, Completion
from slipstream.client.wire import SERVER_LIVE, STREAM_INFER


class AsyncStream(AsyncIterator[Chunk]):
    """The chunks of one reply. Closing it, dropping it or cancelling its task cancels the request on the server."""

    def __init__(self, method: Any, reply: Reply) -> None:
        self._method = method
        self._reply = reply
        self._is_lost = False
        self._call: Any = None  # what __del__ finds if the channel refuses
        self._call = method(reply.message, timeout=reply.remaining_s)

    async def __anext__(self) -> Chunk:
        while not self._reply.is_over:
            try:
                message = await self._call.read()
                if message is aio.EOF:
                    self._reply.end()
                    break
                chunk = self._reply.take(message)
            except grpc.RpcError as error:
                await self._ask_again(error)
                continue
            except asyncio.CancelledError as error:
                if _is_task_cancelled():
                    self.close()
                    raise
                self._fail("CANCELLED", "the client was closed", error)  # not this task: what it waited for
                continue
            except BaseException:
                self.close()
                raise
            if chunk is not None:
                return chunk
        raise StopAsyncIteration

    async def finish(self) -> Completion:
        """Read to the end."""
        async for _ in self:
            pass
        return self.completion

    @property
    def completion(self) -> Completion:
        """The reply as far as it has been read."""
        return self._reply.completion()

    def close(self) -> None:
        """Cancel what is still running."""
        self._reply.cancel()
        self._call.cancel()

    def give_up(self) -> None:
        """The server is lost: whoever reads this stream gets `ConnectionLostError`."""
        self._is_lost = True
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # The connection knows the call: left alone it would run to its end.
        if self._call is not None and not self._reply.is_over:
            self._call.cancel()

    async def _ask_again(self, error: Any) -> None:
        code, details = error.code().name, error.details() or ""
        delay_s = None if self._is_lost else self._reply.next_retry_s(code)
        if delay_s is None:
            self._fail(code, details, error)
        else:
            await asyncio.sleep(delay_s)
            self._call = self._method(self._reply.message, timeout=self._reply.remaining_s)

    def _fail(self, code: str, details: str, cause: BaseException) -> None:
        if self._is_lost:
            code, details = "UNAVAILABLE", "the server gives no sign of life"
        self._reply.fail(code, details, cause=cause)


class AsyncTritonClient(Calls[AsyncStream, Awaitable[Completion]]):
    """A connection to Triton's gRPC port, for any number of tasks of one event loop; make it inside that loop."""

    async def close(self) -> None:
        """Close the connection; streams that are still open fail."""
        await self._channel.close()

    async def is_live(self, *, timeout_s: float) -> bool:
        """Whether the server answers at all within `timeout_s`: it may well be busy, or have no model."""
        from tritonclient.grpc import service_pb2

        question = service_pb2.ServerLiveRequest().SerializeToString()
        try:
            await self._channel.call(SERVER_LIVE, question, timeout=timeout_s).read()
        except grpc.RpcError as error:
            return error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        return True

    async def wait_until_lost(self) -> None:
        """Wait until a connection that was up is not any more, or this client is closed."""
        await self._channel.wait_until_lost()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _connect(self, address: str) -> Any:
        return Http2Channel(address)

    def _stream_method(self) -> Any:
        return self._call

    def _call(self, message: Any, *, timeout: float | None) -> Http2Call:
        call: Http2Call = self._channel.call(STREAM_INFER, message.SerializeToString(), timeout=timeout)
        return call

    def _open(self, method: Any, reply: Reply) -> AsyncStream:
        return AsyncStream(method, reply)

    def _finish(self, stream: AsyncStream) -> Awaitable[Completion]:
        return stream.finish()


def _is_task_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
