"""The blocking client: a thin shell that moves messages between gRPC and the pure core."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.experimental

from slipstream.client.calls import Calls
from slipstream.client.reply import Reply
from slipstream.client.values import Chunk, Completion
from slipstream.client.wire import CHANNEL_OPTIONS


class Stream(Iterator[Chunk]):
    """The chunks of one reply. Closing it, dropping it or an exception inside it cancels the request on the server."""

    def __init__(self, method: Any, reply: Reply) -> None:
        self._method = method
        self._reply = reply
        self._call = method(reply.message, timeout=reply.remaining_s, metadata=reply.request.metadata)
        self._is_reading = False
        self._releasing = threading.Lock()

    def __next__(self) -> Chunk:
        while not self._reply.is_over:
            try:
                chunk = self._reply.take(self._read())
            except StopIteration:
                self._reply.end()
                raise
            except grpc.RpcError as error:
                self._ask_again(error)
                continue
            except BaseException:  # Ctrl-C among them: nobody reads on, so the server shall stop
                self.close()
                raise
            if chunk is not None:
                return chunk
        raise StopIteration

    def finish(self) -> Completion:
        """Read to the end."""
        for _ in self:
            pass
        return self.completion

    @property
    def completion(self) -> Completion:
        """The reply as far as it has been read."""
        return self._reply.completion()

    def close(self) -> None:
        """Cancel what is still running; from any thread."""
        self._reply.cancel()
        self._call.cancel()
        if not self._is_reading:  # else the thread that reads does it
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_releasing"):  # it began
            self.close()

    def _read(self) -> Any:
        """The next message; after an interruption the call stays as it is: gRPC has lost count of its events."""
        self._is_reading = True
        try:
            message = next(self._call)
        except (StopIteration, grpc.RpcError):
            self._is_reading = False
            self._release()
            raise
        self._is_reading = False
        if self._reply.is_over:  # closed meanwhile, by another thread
            self._release()
        return message

    def _release(self) -> None:
        """Take what a call that is over still has to say: with it on its queue the connection would never close.

        A call that has no thread of gRPC's reads for itself, but nothing after its failure (grpcio 1.85).
        """
        with self._releasing:
            while self._call._state.due:  # noqa: SLF001 - gRPC has no public way
                self._call._consume_next_event()  # noqa: SLF001

    def _ask_again(self, error: Any) -> None:
        code, details = error.code().name, error.details() or ""
        delay_s = self._reply.next_retry_s(code)
        if delay_s is None:
            self._reply.fail(code, details, cause=error)
        else:
            time.sleep(delay_s)
            reply = self._reply
            self._call = self._method(reply.message, timeout=reply.remaining_s, metadata=reply.request.metadata)


class TritonClient(Calls[Stream, Completion]):
    """A connection to Triton's gRPC port, for any number of threads."""

    def close(self) -> None:
        """Close the connection; streams that are still open fail."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self, address: str) -> Any:
        # The thread that waits reads the socket itself; else each message passes through a thread of gRPC's first.
        reads_itself = (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)
        return grpc.insecure_channel(address, options=[*CHANNEL_OPTIONS, reads_itself])

    def _open(self, method: Any, reply: Reply) -> Stream:
        return Stream(method, reply)

    def _finish(self, stream: Stream) -> Completion:
        return stream.finish()
