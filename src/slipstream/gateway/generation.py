"""One generation as the APIs see it: text that may be shown, and why it ended."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal

from slipstream.client import Chunk, Guide, Sampling, TokenRequest
from slipstream.errors import SlipstreamError
from slipstream.gateway.errors import from_failure
from slipstream.gateway.exchange import Exchange
from slipstream.gateway.observability.metrics import Gaps
from slipstream.gateway.observability.record import Times
from slipstream.gateway.routing import RoutedStream
from slipstream.gateway.served_model import ServedModel
from slipstream.text.detokenizer import Detokenizer
from slipstream.text.stop_sequences import StopMatcher

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a request asks of the engine, whatever API it came by."""

    prompt_ids: tuple[int, ...]
    max_tokens: int  # at most what the context has room for
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()  # not part of the text
    guide: Guide | None = None
    log_probs: bool = False
    ignores_end: bool = False  # no token ends the text

    def numbered(self, number: int) -> Wanted:
        """The same for the choice with this number: with a seed of its own, or all would draw alike."""
        seed = self.sampling.seed
        if seed is None or number == 0:
            return self
        return replace(self, sampling=replace(self.sampling, seed=(seed + number) % 2**64))


@dataclass(frozen=True, slots=True)
class TokenLogProb:
    """One token that was chosen."""

    token_id: int
    log_prob: float


@dataclass(frozen=True, slots=True)
class Delta:
    """What came since the last one; the last one has a finish reason."""

    text: str
    tokens: int  # that were generated for it
    log_probs: tuple[TokenLogProb, ...]
    finish: FinishReason | None
    stop: str | None = None  # the stop sequence that ended it


class Generation:
    """Follows the token stream of one request.

    `deltas` may be read once. Closing it, or cancelling its task, ends the request on the server.
    """

    def __init__(
        self,
        model: ServedModel,
        wanted: Wanted,
        *,
        deadline_s: float,
        exchange: Exchange | None = None,
        gaps: Gaps | None = None,
    ) -> None:
        self.wanted = wanted
        self.output_tokens = 0
        self.source: Callable[[], AsyncGenerator[Delta]] | None = None  # of the deltas, in the place of the engine
        self.needs_engine = True
        self.times = Times(gaps)
        self._ends = () if wanted.ignores_end else model.tokenizer.eos_ids
        self._detokenizer = Detokenizer(model.tokenizer)
        self._stops = StopMatcher(wanted.stop) if wanted.stop else None
        self._request = _token_request(wanted, self._ends)
        self._deadline_s = deadline_s
        self._model = model
        self._exchange = exchange or Exchange()

    def deltas(self) -> AsyncGenerator[Delta]:
        """Every piece of text as it comes, without empty ones, then the reason of the end; `ApiError` on a failure."""
        source, self.source = self.source, None  # which knows this generation: a cycle would keep its stream alive
        return self.generate() if source is None else source()

    async def generate(self) -> AsyncGenerator[Delta]:
        """The deltas, from the engine."""
        times = self.times
        times.sent_s = time.monotonic()
        try:
            async with (
                self._model.backends.open(
                    self._request, deadline_s=self._deadline_s, affinity=self._exchange.affinity
                ) as stream,
                aclosing(self._read(stream)) as deltas,
            ):
                async for delta in deltas:
                    yield delta
        except SlipstreamError as error:
            times.finish = "error"
            raise from_failure(error) from error
        finally:
            times.has_ended = True

    async def _read(self, stream: RoutedStream) -> AsyncGenerator[Delta]:
        times = self.times
        async for chunk in stream:
            times.chunk(time.monotonic())
            if not self.output_tokens:
                self._exchange.answered_by(stream.backend)
            ids = self._without_end(chunk)
            self.output_tokens += len(chunk.token_ids)
            text, stop = self._shown(self._detokenizer.push(ids))
            finish: FinishReason | None = None if stop is None else "stop"
            times.finish = finish or ""
            if text or finish or chunk.log_probs:
                pairs = zip(ids, chunk.log_probs, strict=False)
                yield Delta(text, len(ids), tuple(TokenLogProb(*pair) for pair in pairs), finish, stop)
            if stop is not None:
                return
        rest, stop = self._shown(self._detokenizer.finish())
        if self._stops is not None and stop is None:
            rest += self._stops.finish()
        is_cut = stop is None and self.output_tokens >= self.wanted.max_tokens
        finish = "length" if is_cut else "stop"
        times.finish = finish
        yield Delta(rest, 0, (), finish, stop)

    def _shown(self, text: str) -> tuple[str, str | None]:
        if self._stops is None:
            return text, None
        check = self._stops.push(text)
        return check.text, check.stop

    def _without_end(self, chunk: Chunk) -> tuple[int, ...]:
        """A second end token, which the engine knows as a stop word only, is part of what it sends."""
        ids = chunk.token_ids
        return ids[:-1] if ids and ids[-1] in self._ends else ids


def _token_request(wanted: Wanted, ends: tuple[int, ...]) -> TokenRequest:
    return TokenRequest(
        input_ids=wanted.prompt_ids,
        max_tokens=wanted.max_tokens,
        sampling=wanted.sampling,
        end_id=ends[0] if ends else None,
        stop_ids=tuple((token,) for token in ends[1:]),
        guide=wanted.guide,
        log_probs=wanted.log_probs,
    )
