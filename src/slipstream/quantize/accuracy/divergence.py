"""Next-token distributions before and after, compared token by token in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import SlipstreamError
from slipstream.quantize.accuracy.hidden import Hidden, log_probabilities
from slipstream.quantize.accuracy.report import TextAccuracy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_NUMBERS = 32_000_000  # log-probabilities held of each model at a time: 128 MiB


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """Last hidden states for one text, of the tokens that have a next one, and these next tokens."""

    hidden: Hidden  # [tokens, hidden size]
    next_ids: NDArray[np.int64]  # [tokens]


def compare(model: PreTrainedModel, text: str, before: Predictions, after: Predictions) -> TextAccuracy:
    """Both sets of predictions through the lm_head of `model`."""
    import torch

    parts = []
    with torch.inference_mode():
        for rows in _chunks(len(before.next_ids), _vocabulary(model)):
            was = log_probabilities(model, before.hidden[rows])
            now = log_probabilities(model, after.hidden[rows])
            ids = torch.from_numpy(before.next_ids[rows])[:, None]
            kl = torch.nn.functional.kl_div(now, was, reduction="none", log_target=True).sum(-1)
            same = was.argmax(-1) == now.argmax(-1)
            parts.append([-was.gather(1, ids)[:, 0], -now.gather(1, ids)[:, 0], kl, same])
    columns = (torch.cat(column).double().numpy() for column in zip(*parts, strict=True))
    loss_before, loss_after, divergence, agreement = columns
    return TextAccuracy(
        text=text,
        tokens=len(divergence),
        perplexity_before=_perplexity(loss_before, text, "before"),
        perplexity_after=_perplexity(loss_after, text, "after"),
        kl_mean=max(0.0, float(divergence.mean())),  # rounding may leave a hair below zero
        kl_p99=max(0.0, float(np.percentile(divergence, 99))),
        top1_agreement=float(agreement.mean()),
    )


def sample_targets(samples: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """The next token of every token but the last of each sample."""
    return np.array(samples, dtype=np.int64)[:, 1:].reshape(-1)


def _chunks(tokens: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, CHUNK_NUMBERS // vocabulary)
    return (slice(start, start + size) for start in range(0, tokens, size))


def _vocabulary(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().vocab_size)


def _perplexity(losses: NDArray[np.float64], text: str, when: str) -> float:
    mean = float(losses.mean())
    if not math.isfinite(mean) or mean > math.log(1e30):
        raise overflow(text, when)
    return math.exp(mean)


def overflow(text: str, when: str) -> SlipstreamError:
    """The error for a model whose numbers are none."""
    return SlipstreamError(
        f"{text}: the perplexity {when} quantization is not a number: weights or activations overflow their type",
        mend="set model.dtype to bfloat16, or check that the model's weights are whole",
    )
