"""One reply as it grows: responses in, chunks out, the tally beside. No input or output of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

from slipstream.client.failures import call_failure, model_failure
from slipstream.client.requests import TextRequest, TokenRequest
from slipstream.client.responses import SameResponse, parsed
from slipstream.client.tensors import first_text, floats, ints
from slipstream.client.values import Chunk, Completion, Finish

_FIRST_RETRY_S = 0.05
_SHORTEST_SPAN_MS = 20.0  # chunks closer than this came in one burst: their times tell of the network, not of decoding


class Reply:
    """Follows one request from the moment it is made; a shell feeds it what the wire brings."""

    def __init__(
        self,
        request: TextRequest | TokenRequest,
        *,
        address: str,
        deadline_s: float | None,
        connect_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.request = request
        self.message = request.message()
        self._address = address
        self._deadline_s = deadline_s
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock
        self._started = clock()
        self._retry_s = _FIRST_RETRY_S
        self._same = SameResponse()
        self._tally = _Tally()
        self._input_tokens = request.input_tokens
        self._is_complete = False  # the final response came, or the server ended the stream in good order
        self._is_cancelled = False
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Nothing is left to read."""
        return self._is_over

    @property
    def remaining_s(self) -> float | None:
        """Time left to the deadline."""
        return None if self._deadline_s is None else max(0.0, self._deadline_s - self._elapsed_s())

    def take(self, raw: bytes) -> Chunk | None:
        """Read one `ModelStreamInferResponse`; None for one that carries no tokens, as the empty final one."""
        token = self._same.token(raw)
        at_ms = 1000 * self._elapsed_s()
        if token is not None:
            chunk = Chunk(text="", token_ids=(token,), log_probs=(), output_tokens=1, at_ms=at_ms)
            self._tally.add(chunk)
            return chunk
        response = parsed(raw)
        if response.error:
            raise model_failure(response.error, model=self.request.model, address=self._address)
        if response.is_final:
            self._is_complete = True
        self._same.learn(raw, response)
        chunk = _chunk(response.outputs, at_ms=at_ms)
        if not (chunk.text or chunk.token_ids or chunk.output_tokens):
            return None
        if counted := response.outputs.get("num_input_tokens"):
            self._input_tokens = ints(counted)[0]
        self._tally.add(chunk)
        return chunk

    def end(self) -> None:
        """The server has closed the stream in good order."""
        self._is_complete = self._is_over = True

    def cancel(self) -> None:
        """The caller has closed the stream; without effect on a reply that is complete."""
        self._is_cancelled = not self._is_complete
        self._is_over = True

    def next_retry_s(self, code: str) -> float | None:
        """How long to wait before asking again, longer each time; None if this failure stands.

        Only a server that cannot be reached is asked again, and only until its first answer.
        """
        delay_s, self._retry_s = self._retry_s, self._retry_s * 2
        is_in_time = self._elapsed_s() + delay_s < self._connect_timeout_s
        return delay_s if code == "UNAVAILABLE" and not self._tally.chunks and is_in_time else None

    def fail(self, code: str, details: str, *, cause: BaseException) -> None:
        """The call ended with status `code`: raise what the caller shall see, nothing if it matters no more."""
        self._is_over = True
        if self._is_complete or self._is_cancelled:
            return
        raise call_failure(
            code, details, address=self._address, chunks=self._tally.chunks, deadline_s=self._deadline_s
        ) from cause

    def completion(self) -> Completion:
        """The reply as far as it has come."""
        tally = self._tally
        return Completion(
            request_id=self.request.request_id,
            text="".join(tally.texts),
            token_ids=tuple(tally.token_ids),
            input_tokens=self._input_tokens,
            output_tokens=tally.output_tokens,
            finish=self._finish(tally.output_tokens),
            ttft_ms=tally.first_ms,
            total_ms=1000 * self._elapsed_s() if tally.last_ms is None else tally.last_ms,
            tokens_per_s=tally.decode_speed(),
        )

    def _elapsed_s(self) -> float:
        return self._clock() - self._started

    def _finish(self, output_tokens: int | None) -> Finish | None:
        if self._is_cancelled:
            return "cancelled"
        if not self._is_complete or output_tokens is None:
            return None
        return "length" if output_tokens >= self.request.max_tokens else "stop"


def _chunk(outputs: dict[str, bytes], *, at_ms: float) -> Chunk:
    # Of the beams only the first is read: `sequence_length` [beams] says how much of it is filled.
    lengths = ints(outputs.get("sequence_length", b""))
    ids = ints(outputs.get("output_ids", b""))[: lengths[0]] if lengths else ()
    count = ints(outputs.get("num_output_tokens", b""))
    return Chunk(
        text=first_text(outputs.get("text_output", b"")),
        token_ids=ids,
        log_probs=floats(outputs.get("output_log_probs", b""))[: len(ids)],
        output_tokens=count[0] if count else len(ids) or None,
        at_ms=at_ms,
    )


class _Tally:
    """What the chunks come to, without keeping them: a gateway holds thousands of replies."""

    def __init__(self) -> None:
        self.chunks = 0
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.output_tokens: int | None = 0  # None if the server does not count them
        self.first_ms: float | None = None
        self.last_ms: float | None = None
        self._first_tokens: int | None = 0

    def add(self, chunk: Chunk) -> None:
        self.chunks += 1
        if chunk.text:
            self.texts.append(chunk.text)
        self.token_ids += chunk.token_ids
        known = self.output_tokens is not None and chunk.output_tokens is not None
        self.output_tokens = self.output_tokens + chunk.output_tokens if known else None  # type: ignore[operator]
        if self.first_ms is None:
            self.first_ms, self._first_tokens = chunk.at_ms, self.output_tokens
        self.last_ms = chunk.at_ms

    def decode_speed(self) -> float | None:
        """Tokens a second behind the first chunk."""
        if self.first_ms is None or self.last_ms is None or self.output_tokens is None or self._first_tokens is None:
            return None
        tokens, span_ms = self.output_tokens - self._first_tokens, self.last_ms - self.first_ms
        return 1000 * tokens / span_ms if tokens and span_ms >= _SHORTEST_SPAN_MS else None
