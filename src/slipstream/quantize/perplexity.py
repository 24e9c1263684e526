"""Perplexity of a causal language model on token samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from slipstream.errors import SlipstreamError
from slipstream.progress import Reporter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = 1024  # float32 logits of a vocabulary of 128k then take half a GiB


def perplexity(model: PreTrainedModel, samples: Sequence[Sequence[int]], report: Reporter, what: str) -> float:
    """exp of the mean negative log-likelihood of every token of `samples` after the first of its sample."""
    import torch
    from torch.nn.functional import cross_entropy

    total, count = 0.0, 0
    with torch.inference_mode():
        for done, batch in enumerate(groups := batches(samples)):
            report(what, done / len(groups))
            ids = torch.tensor(batch)
            logits = model(ids, use_cache=False).logits[:, :-1].float()
            total += float(cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"))
            count += ids[:, 1:].numel()
    return _exp(total / count)


def batches(samples: Sequence[Sequence[int]]) -> list[Sequence[Sequence[int]]]:
    """`samples`, all of one length, in groups small enough for their logits and large enough to use the cores."""
    size = max(1, BATCH_TOKENS // len(samples[0])) if samples else 1
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _exp(mean_loss: float) -> float:
    value = math.exp(mean_loss) if mean_loss < math.log(1e30) else math.inf
    if not math.isfinite(value):
        raise SlipstreamError(
            f"perplexity is {value}: the weights hold numbers that their type cannot",
            mend="set model.dtype to bfloat16, or check that the model's weights are whole",
        )
    return value
