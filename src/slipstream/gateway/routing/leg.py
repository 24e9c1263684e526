"""One request on one backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipstream.client import Chunk, TokenRequest
from slipstream.errors import SlipstreamError

if TYPE_CHECKING:
    from slipstream.gateway.routing.backend import Backend


class Leg:
    """Follows the stream, counts the work that is still to be done, and tells the backend how it went."""

    __slots__ = ("_ahead_tokens", "_has_begun", "_is_over", "_prompt_tokens", "backend", "output_tokens", "stream")

    def __init__(self, backend: Backend, request: TokenRequest, *, expected_tokens: int, deadline_s: float) -> None:
        self.backend = backend
        self.output_tokens = 0
        self._prompt_tokens = len(request.input_ids)
        self._ahead_tokens = expected_tokens
        self._has_begun = False
        self._is_over = False
        self.stream = backend.client.send(request, deadline_s=deadline_s)
        backend.legs.add(self)
        backend.outstanding_tokens += self._prompt_tokens + self._ahead_tokens

    async def next(self) -> Chunk:
        """The next chunk; `StopAsyncIteration` behind the last, `SlipstreamError` on a failure."""
        try:
            chunk = await self.stream.__anext__()
        except StopAsyncIteration:
            self._leave()
            self.backend.answered()
            raise
        except SlipstreamError as error:
            self._leave()
            self.backend.failed(error)
            raise
        self._advance(len(chunk.token_ids))
        return chunk

    def close(self) -> None:
        """End the request, if it still runs."""
        self.stream.close()
        if self._has_begun and not self._is_over:
            self.backend.answered()
        self._leave()

    def _advance(self, tokens: int) -> None:
        backend = self.backend
        backend.heard()
        self.output_tokens += tokens
        if not self._has_begun:
            self._has_begun = True
            backend.outstanding_tokens -= self._prompt_tokens
            self._prompt_tokens = 0
        # Whoever runs longer than expected still counts as one.
        done = min(tokens, self._ahead_tokens - 1)
        self._ahead_tokens -= done
        backend.outstanding_tokens -= done

    def _leave(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self.backend.legs.discard(self)
        self.backend.outstanding_tokens -= self._prompt_tokens + self._ahead_tokens
        self.backend.let_go()
