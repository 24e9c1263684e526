"""Which option of each question a model thinks the most likely, by log-likelihood per byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slipstream.progress import Reporter
from slipstream.quantize.accuracy.choices import CHANCE, ChoiceItem
from slipstream.quantize.accuracy.hidden import lm_head_input, log_probabilities
from slipstream.quantize.accuracy.report import ChoiceAccuracy
from slipstream.quantize.accuracy.statistics import mcnemar, paired_difference, wilson
from slipstream.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Answers = NDArray[np.bool_]  # [items]: whether the answer is right


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question in tokens: the context, then every option, as one row that the model runs once."""

    ids: tuple[int, ...]
    segments: tuple[int, ...]  # 0 for the context, n for option n - 1
    positions: tuple[int, ...]  # each option's begin where the context ends
    option_bytes: tuple[int, ...]
    answer: int


def tokenize(items: Sequence[ChoiceItem], tokenizer: Tokenizer) -> list[Question]:
    """Questions in tokens; options are tokenized apart from their context, with the space before them."""
    return [_question(item, tokenizer) for item in items]


def answer(model: PreTrainedModel, questions: Sequence[Question], report: Reporter, what: str) -> Answers:
    """Whether the model's answer to each question is right."""
    import torch

    right = []
    with torch.inference_mode():
        for done, question in enumerate(questions):
            report(what, done / len(questions))
            right.append(int(np.argmax(_scores(model, question))) == question.answer)
    return np.array(right)


def compare_answers(before: Answers, after: Answers) -> ChoiceAccuracy:
    """Two models' answers to the same questions."""
    items = len(before)
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    return ChoiceAccuracy(
        items=items,
        chance=CHANCE,
        before=float(before.mean()),
        before_interval=wilson(int(before.sum()), items),
        after=float(after.mean()),
        after_interval=wilson(int(after.sum()), items),
        difference=(won - lost) / items,
        difference_interval=paired_difference(lost, won, items),
        lost=lost,
        won=won,
        p_value=mcnemar(lost, won),
    )


def _question(item: ChoiceItem, tokenizer: Tokenizer) -> Question:
    context = tokenizer.encode(item.context, add_special_tokens=False)
    options = [tokenizer.encode(option, add_special_tokens=False) for option in item.options]
    ids, segments, positions = list(context), [0] * len(context), list(range(len(context)))
    for number, option in enumerate(options, 1):
        ids += option
        segments += [number] * len(option)
        positions += range(len(context), len(context) + len(option))
    return Question(
        ids=tuple(ids),
        segments=tuple(segments),
        positions=tuple(positions),
        option_bytes=tuple(len(option.encode()) for option in item.options),
        answer=item.answer,
    )


def _scores(model: PreTrainedModel, question: Question) -> NDArray[np.float64]:
    """Log-likelihood per byte of each option."""
    import torch

    segments = np.array(question.segments)
    hidden = lm_head_input(
        model,
        torch.tensor([question.ids]),
        attention_mask=_mask(segments),
        position_ids=torch.tensor([question.positions]),
    )[0].numpy()
    inside = np.flatnonzero(segments)
    # An option's first token is predicted by the context's last, every other by the one before it.
    context_end = int(inside[0]) - 1
    predicted_by = np.where(segments[inside] == segments[inside - 1], inside - 1, context_end)
    logs = log_probabilities(model, hidden[predicted_by])
    ids = torch.tensor(question.ids)[torch.from_numpy(inside)][:, None]
    likelihoods = logs.gather(1, ids)[:, 0].double().numpy()
    sums = np.bincount(segments[inside] - 1, weights=likelihoods, minlength=len(question.option_bytes))
    return np.asarray(sums / np.array(question.option_bytes), dtype=np.float64)


def _mask(segments: NDArray[np.int64]) -> Tensor:
    """Which tokens see which, [1, 1, tokens, tokens], added to the scores: the context is seen by all, an option by
    itself alone, and nothing from before it was written."""
    import torch

    seen = (segments[None, :] == 0) | (segments[None, :] == segments[:, None])
    seen &= np.tri(len(segments), dtype=np.bool_)
    mask = np.where(seen, 0.0, np.finfo(np.float32).min).astype(np.float32)
    return torch.from_numpy(mask)[None, None]
