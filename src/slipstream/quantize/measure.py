"""What a recipe does to a model, measured on text that calibration has not seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.errors import SlipstreamError
from slipstream.progress import Reporter
from slipstream.quantize.accuracy import AccuracyReport, BaseMeasurement, ChoiceAccuracy, build_items, measure_base
from slipstream.quantize.accuracy.answers import tokenize
from slipstream.quantize.corpora import packaged_text
from slipstream.quantize.modelopt_quantize import quantized_layers, quantizers_of
from slipstream.quantize.recipes import Recipe
from slipstream.quantize.samples import calibration_samples, evaluation_samples
from slipstream.text.chat_template import ChatTemplate
from slipstream.text.tokenizer import Tokenizer, read_json

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
    kl_mean: float  # of next-token distributions, nats per token
    kl_p99: float
    top1_agreement: float
    tokens_evaluated: int
    choices: ChoiceAccuracy | None  # None: the recipe asks no questions
    tokens_calibrated: int
    quantized_layers: int
    scales_sha256: str  # digest of the calibrated ranges

    @property
    def perplexity_change(self) -> float:
        """Relative change: 0.01 is one percent worse."""
        return self.perplexity_after / self.perplexity_before - 1


def recipe_samples(recipe: Recipe, model_directory: Path, *, calibrates: bool, evaluates: bool) -> RecipeSamples:
    """Cut the recipe's texts, as far as they are used, into token samples of the model; a short text is refused."""
    settings = recipe.settings
    tokenizer = Tokenizer.load(model_directory)
    rows = read_json(model_directory / "config.json").get("vocab_size", 0)
    if tokenizer.vocab_size > rows:
        raise SlipstreamError(
            f"{model_directory}: the tokenizer has {tokenizer.vocab_size} tokens, the model's embedding {rows} rows",
            mend="give the model its own tokenizer",
        )
    calibration: list[list[int]] = []
    if settings.calibration is not None and calibrates:
        template = ChatTemplate.load(model_directory) if settings.calibration.chat_template else None
        calibration = calibration_samples(tokenizer, recipe.calibration_text, settings.calibration, template)
    return RecipeSamples(
        calibration=calibration,
        evaluation=evaluation_samples(tokenizer, recipe.evaluation_text, settings.evaluation)
        if settings.evaluation and evaluates
        else [],
    )


def measure_before(
    model: PreTrainedModel, recipe: Recipe, samples: RecipeSamples, model_directory: Path, report: Reporter
) -> BaseMeasurement | None:
    """The unquantized `model` on what the recipe evaluates on; None where it does not, or nothing is quantized."""
    evaluation = recipe.settings.evaluation
    if evaluation is None or not samples.evaluation:
        return None
    items = build_items(packaged_text("wikipedia").held_out, evaluation.choices) if evaluation.choices else []
    questions = tokenize(items, Tokenizer.load(model_directory))
    return measure_base(model, {"evaluation text": samples.evaluation}, report, questions)


def summarize(model: PreTrainedModel, accuracy: AccuracyReport, samples: RecipeSamples) -> Measurement:
    """What was measured of the quantized `model`, with what was done to it."""
    text = accuracy.texts[0]
    return Measurement(
        perplexity_before=text.perplexity_before,
        perplexity_after=text.perplexity_after,
        kl_mean=text.kl_mean,
        kl_p99=text.kl_p99,
        top1_agreement=text.top1_agreement,
        tokens_evaluated=text.tokens,
        choices=accuracy.choices,
        tokens_calibrated=sum(map(len, samples.calibration)),
        quantized_layers=len(quantized_layers(model)),
        scales_sha256=scales_digest(model),
    )


def scales_digest(model: PreTrainedModel) -> str:
    """SHA-256 over the names and ranges of a model's quantizers, which shows that two runs calibrated alike."""
    sha = hashlib.sha256()
    for name, quantizer in sorted(quantizers_of(model)):
        if quantizer.is_enabled and quantizer.amax is not None:
            sha.update(name.encode() + b"\0" + quantizer.amax.detach().float().cpu().numpy().astype("<f4").tobytes())
    return sha.hexdigest()
