"""The gate: what was measured against a recipe's limits, and what to say of a checkpoint that does not keep to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slipstream.errors import RejectedArtifactError
from slipstream.formats import KvCache, Method, next_recipe
from slipstream.quantize.accuracy.report import AccuracyReport, ChoiceAccuracy, TextAccuracy
from slipstream.quantize.recipe_schema import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One limit that a quantized model does not keep to."""

    measure: str  # the limit's field in the recipe
    text: str  # on which it was measured
    found: float
    limit: float

    def __str__(self) -> str:
        return f"{self.measure} is {self.limit:g}, found {self.found:.4g} on {self.text}"


def judge(report: AccuracyReport, limits: Limits) -> list[Violation]:
    """The limits that `report` does not keep to on any of its texts and questions; none is good."""
    violations = [violation for text in report.texts for violation in _judge_text(text, limits)]
    return violations + _judge_choices(report.choices, limits.max_choice_drop_points)


def rejection(
    recipe: str,
    method: Method,
    violations: Sequence[Violation],
    kept_at: Path,
    *,
    sm: int | None = None,
    kv_cache: KvCache = "auto",
) -> RejectedArtifactError:
    """The error for a checkpoint that was kept aside, with what to try next.

    `sm` is the compute capability of the GPU that will run it (as 89), where that is known: no recipe is named that it
    cannot run. `kv_cache` is what the checkpoint was made with.
    """
    return RejectedArtifactError(
        f"recipe {recipe}: the checkpoint loses too much and is not used: {'; '.join(map(str, violations))}."
        f" It is kept at {kept_at}",
        mend=f"{_next_step(method, sm, kv_cache)}; or calibrate on more text, or raise the recipe's limits if the loss"
        " is acceptable",
    )


def _next_step(method: Method, sm: int | None, kv_cache: KvCache) -> str:
    """The next recipe; a KV cache in 16 bits where that is all that is quantized, or may be what loses."""
    following = next_recipe(method, sm)
    steps = [f"set quantization.recipe to {following}"] if following else []
    steps += ["set quantization.kv_cache to auto"] if kv_cache != "auto" else []
    return ", or ".join(steps) or "raise the limits in the recipe"


def _judge_text(text: TextAccuracy, limits: Limits) -> Iterator[Violation]:
    increase = text.perplexity_increase_percent
    if limits.max_perplexity_increase_percent is not None and increase > limits.max_perplexity_increase_percent:
        yield Violation(
            measure="max_perplexity_increase_percent",
            text=text.text,
            found=increase,
            limit=limits.max_perplexity_increase_percent,
        )
    if limits.max_kl is not None and text.kl_mean > limits.max_kl:
        yield Violation(measure="max_kl", text=text.text, found=text.kl_mean, limit=limits.max_kl)
    if limits.min_top1_agreement is not None and text.top1_agreement < limits.min_top1_agreement:
        yield Violation(
            measure="min_top1_agreement", text=text.text, found=text.top1_agreement, limit=limits.min_top1_agreement
        )


def _judge_choices(choices: ChoiceAccuracy | None, max_drop_points: float | None) -> list[Violation]:
    """A drop that is beyond the limit and beyond chance: the paired 95 % interval of the difference is below zero."""
    if (
        choices is None
        or max_drop_points is None
        or not choices.is_worse
        or -100 * choices.difference <= max_drop_points
    ):
        return []
    drop = -100 * choices.difference
    return [Violation(measure="max_choice_drop_points", text="multiple choice", found=drop, limit=max_drop_points)]
