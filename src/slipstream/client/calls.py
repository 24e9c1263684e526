"""What a caller can ask for; the blocking and the async client differ only in how they send and wait."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from slipstream.client.reply import Reply
from slipstream.client.requests import TextRequest, TokenRequest
from slipstream.client.values import Sampling
from slipstream.client.wire import (
    DEFAULT_ADDRESS,
    DEFAULT_CONNECT_TIMEOUT_S,
    DEFAULT_DEADLINE_S,
    checked_address,
    stream_method,
)

StreamT = TypeVar("StreamT")  # Stream or AsyncStream
ResultT = TypeVar("ResultT")  # Completion, or an awaitable of one


class Calls(ABC, Generic[StreamT, ResultT]):
    """Text and token requests to one Triton."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        deadline_s: float | None = DEFAULT_DEADLINE_S,
        connect_timeout_s: float = DEFAULT_CONNECT_TIMEOUT_S,
    ) -> None:
        """`address` is host:port of the gRPC port; `deadline_s` bounds a whole reply unless a call gives its own."""
        self.address = checked_address(address)
        self._deadline_s = deadline_s
        self._connect_timeout_s = connect_timeout_s
        self._channel = self._connect(address)
        self._method = self._stream_method()

    def stream(
        self,
        prompt: str,
        *,
        max_tokens: int,
        model: str = "ensemble",
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        bad_words: Sequence[str] = (),
        deadline_s: float | None = None,
    ) -> StreamT:
        """Chunks of the continuation of `prompt` as they come."""
        request = _text_request(
            prompt, max_tokens=max_tokens, model=model, sampling=sampling, stop=stop, bad_words=bad_words
        )
        return self.send(request, deadline_s=deadline_s)

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int,
        model: str = "ensemble",
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        bad_words: Sequence[str] = (),
        deadline_s: float | None = None,
    ) -> ResultT:
        """The whole continuation of `prompt`. It is streamed underneath, so that TTFT is known."""
        request = _text_request(
            prompt, max_tokens=max_tokens, model=model, sampling=sampling, stop=stop, bad_words=bad_words
        )
        return self._finish(self.send(request, deadline_s=deadline_s))

    def stream_tokens(
        self,
        input_ids: Sequence[int],
        *,
        max_tokens: int,
        model: str = "tensorrt_llm",
        sampling: Sampling | None = None,
        end_id: int | None = None,
        deadline_s: float | None = None,
    ) -> StreamT:
        """Chunks of token ids that continue `input_ids`; without `end_id` only `max_tokens` ends them."""
        request = TokenRequest(
            input_ids=tuple(input_ids),
            max_tokens=max_tokens,
            model=model,
            sampling=sampling or Sampling(),
            end_id=end_id,
        )
        return self.send(request, deadline_s=deadline_s)

    def send(self, request: TextRequest | TokenRequest, *, deadline_s: float | None = None) -> StreamT:
        """Send a request made beforehand; the other methods come down to this one."""
        reply = Reply(
            request,
            address=self.address,
            deadline_s=self._deadline_s if deadline_s is None else deadline_s,
            connect_timeout_s=self._connect_timeout_s,
        )
        return self._open(self._method, reply)

    @abstractmethod
    def _connect(self, address: str) -> Any:
        """A gRPC channel."""

    def _stream_method(self) -> Any:
        return stream_method(self._channel)

    @abstractmethod
    def _open(self, method: Any, reply: Reply) -> StreamT: ...

    @abstractmethod
    def _finish(self, stream: StreamT) -> ResultT: ...


def _text_request(
    prompt: str,
    *,
    max_tokens: int,
    model: str,
    sampling: Sampling | None,
    stop: Sequence[str],
    bad_words: Sequence[str],
) -> TextRequest:
    return TextRequest(
        prompt=prompt,
        max_tokens=max_tokens,
        model=model,
        sampling=sampling or Sampling(),
        stop=tuple(stop),
        bad_words=tuple(bad_words),
    )
