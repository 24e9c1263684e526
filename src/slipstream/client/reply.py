"""One reply as it grows: responses in, chunks out, the tally beside. No input or output of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from slipstream.client.failures import call_failure, model_failure
from slipstream.client.requests import TextRequest, TokenRequest
from slipstream.client.tensors import first_text, floats, ints, raw_outputs
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
        self._chunks: list[Chunk] = []
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

    def take(self, message: Any) -> Chunk | None:
        """Read one `ModelStreamInferResponse`; None for one that carries no tokens, as the empty final one."""
        if message.error_message:
            raise model_failure(message.error_message, model=self.request.model, address=self._address)
        response = message.infer_response
        if response.parameters["triton_final_response"].bool_param:
            self._is_complete = True
        outputs = raw_outputs(response)
        chunk = _chunk(outputs, at_ms=1000 * self._elapsed_s())
        if not (chunk.text or chunk.token_ids or chunk.output_tokens):
            return None
        if raw := outputs.get("num_input_tokens"):
            self._input_tokens = ints(raw)[0]
        self._chunks.append(chunk)
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
        return delay_s if code == "UNAVAILABLE" and not self._chunks and is_in_time else None

    def fail(self, code: str, details: str, *, cause: BaseException) -> None:
        """The call ended with status `code`: raise what the caller shall see, nothing if it matters no more."""
        self._is_over = True
        if self._is_complete or self._is_cancelled:
            return
        raise call_failure(
            code, details, address=self._address, chunks=len(self._chunks), deadline_s=self._deadline_s
        ) from cause

    def completion(self) -> Completion:
        """The reply as far as it has come."""
        output_tokens = _sum([chunk.output_tokens for chunk in self._chunks])
        return Completion(
            request_id=self.request.request_id,
            text="".join(chunk.text for chunk in self._chunks),
            token_ids=tuple(token for chunk in self._chunks for token in chunk.token_ids),
            input_tokens=self._input_tokens,
            output_tokens=output_tokens,
            finish=self._finish(output_tokens),
            ttft_ms=self._chunks[0].at_ms if self._chunks else None,
            total_ms=self._chunks[-1].at_ms if self._chunks else 1000 * self._elapsed_s(),
            tokens_per_s=_decode_speed(self._chunks),
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


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _decode_speed(chunks: list[Chunk]) -> float | None:
    tokens = _sum([chunk.output_tokens for chunk in chunks[1:]])
    span_ms = chunks[-1].at_ms - chunks[0].at_ms if chunks else 0.0
    return 1000 * tokens / span_ms if tokens and span_ms >= _SHORTEST_SPAN_MS else None
