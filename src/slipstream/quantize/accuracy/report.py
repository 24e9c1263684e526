"""What was measured of a quantized model against the same model before, as values that can be written as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from slipstream.quantize.accuracy.statistics import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAccuracy:
    """Next-token prediction on one text."""

    text: str
    tokens: int  # predicted: every token but the first of each sample
    perplexity_before: float
    perplexity_after: float
    kl_mean: float  # KL(before ‖ after) of the next-token distributions, nats per token
    kl_p99: float
    top1_agreement: float  # share of positions at which both think the same token most likely

    @property
    def perplexity_increase_percent(self) -> float:
        return 100 * (self.perplexity_after - self.perplexity_before) / self.perplexity_before


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceAccuracy:
    """Multiple choice: the true continuation among others, by log-likelihood per byte."""

    items: int
    chance: float  # of a guess
    before: float
    before_interval: Interval  # 95 %, Wilson
    after: float
    after_interval: Interval
    difference: float  # after - before, the same items
    difference_interval: Interval  # 95 %, paired (Agresti-Min)
    lost: int  # items right before and wrong after
    won: int
    p_value: float  # exact McNemar: chance of so uneven a split if nothing had changed

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval of the difference is below zero."""
        return self.difference_interval.high < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyReport:
    """Everything measured of one quantized model."""

    texts: tuple[TextAccuracy, ...]
    choices: ChoiceAccuracy | None = None  # None: not asked for

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        texts = [
            asdict(text) | {"perplexity_increase_percent": text.perplexity_increase_percent} for text in self.texts
        ]
        return {"texts": texts, "choices": None if self.choices is None else asdict(self.choices)}
