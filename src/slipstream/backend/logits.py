"""Logits: which of them a request wants, how many it may want, and where they lie in one forward pass.

The pipeline gives out log-probs of chosen tokens, but no logits. So they are computed again, when the output is
there: one pass of the same graph over prompt and output, in a process of its own (`logits_pass.py`), of which row n
holds the logits for token n + 1. They are the model's own, before penalties, temperature and bans, in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.tensors import RequestRefusedError, Tensors, flag

CONTEXT, GENERATION = "return_context_logits", "return_generation_logits"
MOST_BYTES = 64 << 20  # of one response; Triton's shared memory grows by as much on each model that passes it on
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsWish:
    """At least one of the two is true."""

    context: bool  # of the prompt's tokens
    generation: bool  # of the output's


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """What a wish came to; float32 [tokens, vocabulary] each."""

    context: NDArray[np.float32] | None
    generation: NDArray[np.float32] | None

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As TensorRT-LLM's backend names and shapes them: [1, prompt, vocabulary] and [1, 1, tokens, vocabulary]."""
        tensors: dict[str, NDArray[Any]] = {}
        if self.context is not None:
            tensors["context_logits"] = self.context[np.newaxis]
        if self.generation is not None:
            tensors["generation_logits"] = self.generation[np.newaxis, np.newaxis]
        return tensors


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass over `ids`; the rows from `first_row` on are wanted."""

    ids: list[int]
    first_row: int


def read_logits_wish(
    tensors: Tensors, *, prompt_tokens: int, max_new_tokens: int, vocab_size: int
) -> LogitsWish | None:
    """The logits that a request asks for; `RequestRefusedError` when they could be more than a response may hold."""
    wish = LogitsWish(context=bool(flag(tensors, CONTEXT)), generation=bool(flag(tensors, GENERATION)))
    if not (wish.context or wish.generation):
        return None
    tokens = prompt_tokens * wish.context + max_new_tokens * wish.generation
    most = MOST_BYTES // (vocab_size * _FLOAT_BYTES)
    if tokens > most:
        names = " and ".join(
            name for name, is_wanted in ((CONTEXT, wish.context), (GENERATION, wish.generation)) if is_wanted
        )
        raise RequestRefusedError(
            f"{names}: logits of up to {tokens} tokens, the limit is {most} ({MOST_BYTES >> 20} MiB):"
            " send a shorter prompt, or a smaller request_output_len"
        )
    return wish


def pass_for(wish: LogitsWish, prompt_ids: list[int], output_ids: list[int]) -> Pass:
    """The pass that computes what `wish` asks for: nothing follows the last token of the output."""
    return Pass([*prompt_ids, *output_ids[:-1]], 0 if wish.context else len(prompt_ids) - 1)


def cut(rows: NDArray[np.float32], wish: LogitsWish, *, prompt_tokens: int, output_tokens: int) -> Logits:
    """The rows of `pass_for`'s pass, sorted into prompt and output."""
    context = rows[:prompt_tokens] if wish.context else None
    start = prompt_tokens - 1 if wish.context else 0
    generation = rows[start : start + output_tokens] if wish.generation else None
    return Logits(context=context, generation=generation)
