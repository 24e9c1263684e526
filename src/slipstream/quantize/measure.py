"""What quantization does to a model: perplexity before and after, on text that calibration has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipstream.progress import Reporter
from slipstream.quantize.modelopt_int8 import digest, quantize_int8_rows
from slipstream.quantize.perplexity import perplexity
from slipstream.quantize.recipes import Recipe
from slipstream.quantize.samples import calibration_samples, evaluation_samples
from slipstream.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSamples:
    """The token samples that a recipe asks for."""

    calibration: Sequence[Sequence[int]]
    evaluation: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A quantized model against the same model before."""

    perplexity_before: float
    perplexity_after: float  # computed with ModelOpt's quantizers in the model
    tokens_evaluated: int
    tokens_calibrated: int
    quantized_layers: int
    row_amax_sha256: str  # digest of the calibrated weight scales

    @property
    def perplexity_change(self) -> float:
        """Relative change: 0.01 is one percent worse."""
        return self.perplexity_after / self.perplexity_before - 1


def recipe_samples(recipe: Recipe, tokenizer: Tokenizer) -> RecipeSamples:
    """Cut the recipe's texts into token samples; a text that is too short is refused."""
    settings = recipe.settings
    return RecipeSamples(
        calibration=calibration_samples(tokenizer, recipe.calibration_text or "", settings.calibration)
        if settings.calibration
        else [],
        evaluation=evaluation_samples(tokenizer, recipe.evaluation_text or "", settings.evaluation)
        if settings.evaluation
        else [],
    )


def quantize_and_measure(model: PreTrainedModel, samples: RecipeSamples, report: Reporter) -> Measurement:
    """Quantize `model` in place (INT8 weights, one scale a row) and measure it before and after."""
    before = perplexity(model, samples.evaluation, report, "perplexity before")
    amax = quantize_int8_rows(model, samples.calibration, report)
    after = perplexity(model, samples.evaluation, report, "perplexity after")
    return Measurement(
        perplexity_before=before,
        perplexity_after=after,
        tokens_evaluated=sum(len(sample) - 1 for sample in samples.evaluation),
        tokens_calibrated=sum(map(len, samples.calibration)),
        quantized_layers=len(amax),
        row_amax_sha256=digest(amax),
    )
