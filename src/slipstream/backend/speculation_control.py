"""When speculation is worth its price: decided from what steps cost and what they bring, number of streams by number.

Why this keeps a server within 0.98 of its speed without speculation. For each number of streams there is an account in
seconds. Every step pays `SHARE` (0.01) of its time into it. A step with speculation draws what it took beyond the time
in which its tokens come without: that price a token is measured on plain steps of as many streams, and without it
nothing speculates. Requests speculate only as long as the account can pay for moving them back. So what speculation
lost, the move included, is at most 0.01 of the time, and one step. Winnings are kept up to the
time of `PURSE_STEPS` plain steps, so that one bad phase after a good one costs no more than that.

Measuring costs nothing but what the account allows: plain steps are measured as they are, steps with speculation when
there is money to try, and what prompt lookup would bring is followed on plain requests without computing it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

SHARE = 0.01
PURSE_STEPS = 200  # holds what moving a context of a thousand tokens costs, and a trial
TRIAL_STEPS = 16  # of a trial: money for so many must be there, and the first impression decides nothing
MARGIN = 1.05  # speculation must promise so much to begin
_LEAST_STEPS = 8  # before a measurement is believed
KEPT_STEPS = 15
_STEADY_STEPS = 64  # the number of streams has not been larger for so long
REFRESH = 32  # one request in so many runs without, so that the price of plain steps does not grow old
_WEIGHT = 1 / 64  # of one step in the running mean of tokens a step


def _recent() -> deque[float]:
    return deque(maxlen=KEPT_STEPS)


@dataclass(slots=True)
class _Streams:
    """What is known of steps with one number of streams."""

    plain_s: deque[float] = field(default_factory=_recent)
    speculative_s: deque[float] = field(default_factory=_recent)
    account_s: float = 0.0
    trial_left: int = 0  # steps
    begun: int = 0

    @property
    def is_measured(self) -> bool:
        return len(self.plain_s) >= _LEAST_STEPS

    @property
    def price(self) -> float | None:
        """How many plain steps a step with speculation costs; none before it was tried."""
        if len(self.speculative_s) < _LEAST_STEPS or not self.is_measured:
            return None
        return median(self.speculative_s) / median(self.plain_s)


class SpeculationControl:
    """Fed with steps; says whether requests may begin to speculate, and whether those that do must stop.

    `forecasts`: tokens a step is known without speculation too, so a poor forecast needs no trial.
    """

    def __init__(self, *, forecasts: bool) -> None:
        self._forecasts = forecasts
        self._of: defaultdict[int, _Streams] = defaultdict(_Streams)
        self._recent_streams: deque[int] = deque(maxlen=_STEADY_STEPS)
        self._tokens_per_step: float | None = None
        self._prompt_s: deque[float] = _recent()  # seconds a prompt token, without speculation

    def note_plain(self, streams: int, tokens: int, seconds: float) -> None:
        """A step of `streams` requests without speculation and without a prompt."""
        self._recent_streams.append(streams)
        self._pay(streams, SHARE * seconds)
        if tokens == streams:
            self._of[streams].plain_s.append(seconds)

    def note_prompt(self, streams: int, prompt_tokens: int, seconds: float) -> None:
        """A step without speculation that read `prompt_tokens` of prompts."""
        self._recent_streams.append(streams)
        self._pay(streams, SHARE * seconds)
        if prompt_tokens > 0:
            self._prompt_s.append(seconds / prompt_tokens)

    def note_speculative(self, streams: int, tokens: int, prompt_tokens: int, seconds: float) -> None:
        """A step in which all of `streams` requests speculate; `tokens` is what it brought."""
        self._recent_streams.append(streams)
        known = self._of[streams]
        if not prompt_tokens:
            known.trial_left = max(0, known.trial_left - 1)
            known.speculative_s.append(seconds)
            self.note_yields([tokens / streams])
        plain_s = median(known.plain_s) * tokens / streams if known.is_measured else 0.0
        worth_s = min(seconds, self.prompt_price_s(prompt_tokens)) if prompt_tokens else plain_s
        self._pay(streams, SHARE * seconds + worth_s - seconds)

    def note_yields(self, tokens_per_step: Iterable[float]) -> None:
        """Tokens that steps with speculation brought, or would have brought."""
        for tokens in tokens_per_step:
            mean = self._tokens_per_step
            self._tokens_per_step = tokens if mean is None else mean + _WEIGHT * (tokens - mean)

    def note_move(self, streams: int, context_tokens: int) -> None:
        """Requests stop speculating: the `context_tokens` that they hold are computed anew without."""
        self._pay(streams, -self.prompt_price_s(context_tokens) if context_tokens else 0.0)

    def prompt_price_s(self, tokens: int) -> float:
        """What a prompt of `tokens` costs; no end of it before one was measured."""
        return median(self._prompt_s) * tokens if self._prompt_s else float("inf")

    def may_begin(self, streams: int, context_tokens: int) -> bool:
        """Whether requests may speculate when there are `streams`, which hold `context_tokens`."""
        known = self._of[streams]
        if not known.is_measured or max(self._recent_streams, default=streams) > streams:
            return False
        plain_s = median(known.plain_s)
        if known.account_s < self.prompt_price_s(context_tokens) + TRIAL_STEPS * plain_s:
            return False
        if not self._promises(known):
            # A full account may be spent on finding out anew.
            is_full = known.account_s >= PURSE_STEPS * plain_s
            if (not is_full and known.price is not None) or not self._is_possible():
                return False
            known.trial_left = TRIAL_STEPS
        known.begun += 1
        return known.begun % REFRESH != 0

    def must_stop(self, streams: int, context_tokens: int) -> bool:
        """Whether `streams` requests that speculate and hold `context_tokens` must go on without."""
        known = self._of[streams]
        price, brings = known.price, self._tokens_per_step
        is_losing = not known.trial_left and price is not None and brings is not None and brings < price
        is_poor = known.account_s <= self.prompt_price_s(context_tokens)
        return not known.is_measured or is_poor or is_losing

    def _promises(self, known: _Streams) -> bool:
        brings, price = self._tokens_per_step, known.price
        return brings is not None and price is not None and brings >= MARGIN * price

    def _is_possible(self) -> bool:
        """Whether there is anything to win; only lookup knows that beforehand."""
        return not self._forecasts or (self._tokens_per_step is not None and self._tokens_per_step >= MARGIN)

    def _pay(self, streams: int, seconds: float) -> None:
        known = self._of[streams]
        limit_s = PURSE_STEPS * median(known.plain_s) if known.plain_s else 0.0
        known.account_s = min(known.account_s + seconds, limit_s)
