"""One generation on its way to the client: tokens come in as the engine makes them, pieces go out."""

from __future__ import annotations

import time
from dataclasses import dataclass

from slipstream.backend.bad_words import bad_texts
from slipstream.backend.beams import Beam
from slipstream.backend.characters import Characters
from slipstream.backend.draft import DraftCheck, DraftCounts
from slipstream.backend.logits import Logits
from slipstream.backend.messages import Ending, Generate, Start, Tokens
from slipstream.backend.requests import GenerationRequest
from slipstream.backend.stopping import StopWords, stop_texts
from slipstream.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The tokenizer and what was worked out from it at load."""

    tokenizer: Tokenizer
    characters: Characters


@dataclass(slots=True, kw_only=True)
class Timings:
    """Moments on the steady clock."""

    arrival_ns: int
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """What one response holds."""

    ids: list[int]
    log_probs: list[float]  # one each id, or empty
    tokens_before: int  # of this output, in earlier pieces
    is_last: bool
    cumulative_log_prob: float
    beams: tuple[Beam, ...] = ()  # instead of all that, best first
    only_special_before: bool = False  # no token in earlier pieces has a text that a client sees


class Stream:
    """Collects one generation's tokens; `take` gives what may be sent now.

    A piece has at least `interval` tokens, save the first, which waits for nothing, and the last; it may be changed.
    `RequestRefusedError` when its bad words cannot be banned, or when beams cannot be told its stop words.
    """

    def __init__(
        self, *, handle: int, request: GenerationRequest, vocabulary: Vocabulary | None, interval: int
    ) -> None:
        self.interval = interval
        self.handle = handle
        self.request = request
        self.timings = Timings(arrival_ns=time.monotonic_ns())
        self.tokens_generated = 0
        self.start = Start()  # until the first tokens bring it
        self.ending: Ending | None = None
        self.failure = ""
        self.draft_counts = DraftCounts()
        self.expiry = ""  # for the client of a request whose time is up
        self.logits: Logits | None = None  # for the last response
        self._characters = None if vocabulary is None else vocabulary.characters
        tokenizer = None if vocabulary is None else vocabulary.tokenizer
        # Beams end in the search: what it has found cannot be cut here, another beam would have won.
        self._stop_texts = stop_texts(request.stop.stop_words, tokenizer) if request.beams is not None else ()
        self._beams: tuple[Beam, ...] = ()
        self._watches: list[StopWords | DraftCheck] = []
        if request.stop.stop_words and request.beams is None:
            self._watches.append(StopWords(request.stop.stop_words, tokenizer))
        if request.draft_ids:
            self._watches.append(DraftCheck(request.draft_ids, self.draft_counts))
        self._bad_texts = bad_texts(request.stop.bad_words, tokenizer)
        self._ids: list[int] = []
        self._log_probs: list[float] = []
        self._tokens_sent = 0
        self._only_special_sent = True
        self._cumulative_log_prob = 0.0

    @property
    def generate_message(self) -> Generate:
        """What the step loop must be told."""
        request = self.request
        return Generate(
            self.handle,
            request.prompt_ids,
            request.sampling,
            request.penalties,
            request.stop,
            self._bad_texts,
            request.wishes.log_probs,
            request.speculation,
            request.beams,
            self._stop_texts,
        )

    @property
    def has_begun(self) -> bool:
        """It waits no longer."""
        return self.timings.first_scheduled_ns > 0 or self.tokens_generated > 0

    def expire(self) -> bool:
        """True, once, when its time is up: the engine must then be told to end it."""
        deadline = self.request.deadline
        if deadline is None or self.expiry or self.ending is not None or not deadline.has_passed:
            return False
        self.expiry = deadline.failure(has_begun=self.has_begun, tokens_generated=self.tokens_generated)
        return True

    @property
    def has_sent_tokens(self) -> bool:
        """Responses with tokens have gone out."""
        return self._tokens_sent > 0

    def push(self, tokens: Tokens, at_ns: int | None = None) -> bool:
        """Take what a step brought; true if a stop word or a draft ended the output, which the engine must be told.

        `at_ns` is the end of the step on the steady clock, now if it is not given.
        """
        self.draft_counts.proposed += tokens.drafted
        self.draft_counts.accepted += tokens.accepted
        ids = tokens.ids
        stopped_after = self._stopped_after(ids)
        if stopped_after is not None:
            ids = ids[:stopped_after]
        if tokens.start is not None:
            self.start = tokens.start
            self.timings.first_scheduled_ns = tokens.start.scheduled_ns
        count = len(ids) + sum(len(beam.ids) for beam in tokens.beams)
        self._note(count, time.monotonic_ns() if at_ns is None else at_ns)
        self._ids.extend(ids)
        self._beams = tokens.beams
        if tokens.log_probs is not None:
            log_probs = tokens.log_probs[: len(ids)]
            self._log_probs.extend(log_probs)
            self._cumulative_log_prob += sum(log_probs)
        self.ending, self.failure = tokens.ending, tokens.failure
        if self.expiry and self.ending is Ending.CANCELLED:
            self.ending, self.failure = Ending.FAILED, self.expiry
        if stopped_after is not None and self.ending is None:
            self.ending = Ending.END_ID
            return True
        return False

    def take(self) -> Piece | None:
        """The next response, if there is one; the last one always comes, even without tokens."""
        if self.ending is None and not self._is_releasable():
            return None
        piece = Piece(
            self._ids,
            self._log_probs,
            self._tokens_sent,
            self.ending is not None,
            self._cumulative_log_prob,
            self._found_beams(),
            self._only_special_sent,
        )
        self._tokens_sent += len(self._ids)
        if self._only_special_sent:
            self._only_special_sent = self._characters is not None and not self._characters.any_text(self._ids)
        self._ids, self._log_probs = [], []
        return piece

    def _found_beams(self) -> tuple[Beam, ...]:
        """As many as were asked for, also of a search that was cancelled."""
        wanted = self.request.beams
        return self._beams or (() if wanted is None else (Beam([], [], 0.0),) * wanted.num_returned)

    def _is_releasable(self) -> bool:
        least = self.interval if self.has_sent_tokens else 1
        if len(self._ids) < least or not self.request.wishes.streaming:
            return False
        return self._characters is None or self._characters.end_whole(self._ids)

    def _stopped_after(self, ids: list[int]) -> int | None:
        if not self._watches:
            return None
        return next((index + 1 for index, token in enumerate(ids) if self._ends_with(token)), None)

    def _ends_with(self, token: int) -> bool:
        return sum(watch.push(token) for watch in self._watches) > 0  # each of them must see every token

    def _note(self, count: int, at_ns: int) -> None:
        if not count:
            return
        if not self.tokens_generated:
            self.timings.first_token_ns = at_ns
        self.timings.last_token_ns = at_ns
        self.tokens_generated += count
