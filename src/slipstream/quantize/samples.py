"""Token samples from a text: the same text, counts and seed give the same samples."""

from __future__ import annotations

import random

from slipstream.errors import SpecError
from slipstream.quantize.recipes import Calibration, Evaluation
from slipstream.text.tokenizer import Tokenizer


def calibration_samples(tokenizer: Tokenizer, text: str, settings: Calibration) -> list[list[int]]:
    """`samples` stretches of `text`, chosen by the seed, in the text's order."""
    stretches = _stretches(tokenizer, text, settings)
    order = random.Random(settings.seed)  # noqa: S311 - reproducible, not secret
    chosen = order.sample(range(len(stretches)), settings.samples)
    return [stretches[index] for index in sorted(chosen)]


def evaluation_samples(tokenizer: Tokenizer, text: str, settings: Evaluation) -> list[list[int]]:
    """The first `samples` stretches of `text`."""
    return _stretches(tokenizer, text, settings)[: settings.samples]


def _stretches(tokenizer: Tokenizer, text: str, settings: Calibration | Evaluation) -> list[list[int]]:
    """`text` cut into stretches of `tokens_per_sample`; a shorter rest is left out."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    length = settings.tokens_per_sample
    count = len(ids) // length
    if count < settings.samples:
        raise SpecError(
            f"{settings.text}: has {len(ids)} tokens, the recipe wants {settings.samples} x {length}",
            mend="lower samples or tokens_per_sample in the recipe, or give a longer text",
        )
    return [ids[index * length : (index + 1) * length] for index in range(count)]
