"""Samples in groups that a model can run at once."""

from __future__ import annotations

from collections.abc import Sequence

BATCH_TOKENS = 1024  # float32 logits of a vocabulary of 128k then take half a GiB


def batches(samples: Sequence[Sequence[int]]) -> list[Sequence[Sequence[int]]]:
    """`samples`, all of one length, in groups small enough for their logits and large enough to use the cores."""
    size = max(1, BATCH_TOKENS // len(samples[0])) if samples else 1
    return [samples[start : start + size] for start in range(0, len(samples), size)]
