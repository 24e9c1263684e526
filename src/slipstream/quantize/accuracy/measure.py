"""A model before and after its quantization, on the same texts and questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slipstream.progress import Reporter
from slipstream.quantize.accuracy.answers import Answers, Question, answer, compare_answers
from slipstream.quantize.accuracy.divergence import Predictions, compare, overflow, sample_targets
from slipstream.quantize.accuracy.hidden import last_hidden, log_probabilities
from slipstream.quantize.accuracy.report import AccuracyReport
from slipstream.quantize.batches import batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Samples = Sequence[Sequence[int]]  # token ids, all of one length


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaseMeasurement:
    """What is kept of the unquantized model: 4 bytes x hidden size a token, and its answers."""

    texts: Mapping[str, Samples]
    predictions: Mapping[str, Predictions]
    probe: NDArray[np.float32]  # one token's log-probabilities, which show that lm_head is still the same
    questions: Sequence[Question]
    answers: Answers


def measure_base(
    model: PreTrainedModel, texts: Mapping[str, Samples], report: Reporter, questions: Sequence[Question] = ()
) -> BaseMeasurement:
    """Run the unquantized `model` over `texts` (one at least; name → samples of two tokens or more) and `questions`."""
    predictions = {name: _predict(model, samples, report, f"{name} before") for name, samples in texts.items()}
    for name, predicted in predictions.items():
        if not np.isfinite(predicted.hidden).all():
            raise overflow(name, "before")
    return BaseMeasurement(
        texts=texts,
        predictions=predictions,
        probe=_probe(model, predictions),
        questions=questions,
        answers=answer(model, questions, report, "questions before"),
    )


def measure_against(base: BaseMeasurement, model: PreTrainedModel, report: Reporter) -> AccuracyReport:
    """Run `model`, now with quantizers in its linear layers but the same lm_head, over what `base` was measured on."""
    assert np.allclose(_probe(model, base.predictions), base.probe, atol=1e-3), "lm_head is not what it was"
    texts = tuple(
        compare(model, name, base.predictions[name], _predict(model, samples, report, f"{name} after"))
        for name, samples in base.texts.items()
    )
    if not base.questions:
        return AccuracyReport(texts=texts)
    after = answer(model, base.questions, report, "questions after")
    return AccuracyReport(texts=texts, choices=compare_answers(base.answers, after))


def _probe(model: PreTrainedModel, predictions: Mapping[str, Predictions]) -> NDArray[np.float32]:
    import torch

    first = next(iter(predictions.values()))
    with torch.inference_mode():
        return log_probabilities(model, first.hidden[:1])[0].cpu().numpy()


def _predict(model: PreTrainedModel, samples: Samples, report: Reporter, what: str) -> Predictions:
    length = len(samples[0])
    hidden = []
    for done, batch in enumerate(groups := batches(samples)):
        report(what, done / len(groups))
        hidden.append(last_hidden(model, batch).reshape(len(batch), length, -1)[:, :-1])
    whole = np.concatenate(hidden)
    return Predictions(hidden=whole.reshape(-1, whole.shape[-1]), next_ids=sample_targets(samples))
