"""The loop of draft-target speculation: a small model proposes, a large one verifies several tokens in one step.

Every step is a new request to both engines that carries all ids so far; they reuse the KV blocks of the one before.
The output is the target's own: with greedy decoding it is what the target would have written alone.

The output ends as the target alone would end it, which has to be found out from ids, for an engine does not say why
a response is as short as it is (TensorRT-LLM 1.2.1, `tensorrt_llm_bls/1/lib/decode.py` of its Triton backend, reads
them alike):

- the length is reached;
- a step brought nothing: the next token is the end id, which is no part of an engine's output;
- the target gave the draft back and nothing more, where it adds one token of its own unless it ends;
- a stop word. It is looked for at every new token, since one step brings several and the target may have written on
  behind the word; as in TensorRT-LLM's `stopCriteriaKernels.cu`, its first tokens may lie in the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from slipstream.backend.words import Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One prompt to continue, and when to stop."""

    prompt_ids: list[int]
    max_length: int  # prompt and output, in tokens
    num_draft_tokens: int  # most of one step
    end_id: int  # not part of the output; negative: none
    stop_words: tuple[Word, ...]  # part of the output


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What the draft model proposes after some ids."""

    ids: list[int]
    logits: NDArray[Any] | None = None  # [ids, vocabulary]; with fast logits [1, n], where the target finds them


NO_DRAFT = Draft(ids=[])


class Engines(Protocol):
    """The two models. `produced` is the number of output tokens so far, the last of `ids`."""

    def propose(self, ids: list[int], produced: int, count: int) -> Draft:
        """At most `count` tokens that may follow `ids`."""

    def verify(self, ids: list[int], produced: int, draft: Draft) -> list[int]:
        """The target's tokens after `ids`: those of the draft that it accepts, and one of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step brought."""

    num_drafted: int
    num_accepted: int  # by the target, even where the output then ends before them
    num_kept: int  # tokens that it added to the output


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A finished generation."""

    ids: list[int]  # the prompt's first
    steps: tuple[Step, ...]


def speculate(task: Task, engines: Engines) -> Output:
    """Continue the prompt; what `engines` raise ends it."""
    ids = list(task.prompt_ids)
    steps: list[Step] = []
    is_over = False
    while len(ids) < task.max_length and not is_over:
        produced = len(ids) - len(task.prompt_ids)
        # The target adds a token of its own, so a draft leaves room for one.
        count = min(task.num_draft_tokens, task.max_length - len(ids) - 1)
        draft = engines.propose(ids, produced, count) if count > 0 else NO_DRAFT
        new = engines.verify(ids, produced, draft)[: task.max_length - len(ids)]
        end = _end([*ids, *new], len(ids), task)
        kept = new if end is None else new[: end - len(ids)]
        accepted = _common(draft.ids, new)
        steps.append(Step(num_drafted=len(draft.ids), num_accepted=accepted, num_kept=len(kept)))
        is_over = end is not None or not new or new == draft.ids
        ids += kept
    return Output(ids=ids, steps=tuple(steps))


def _end(ids: Sequence[int], start: int, task: Task) -> int | None:
    """The length at which the output ends by an end id or a stop word at or after `start`, none if it goes on."""
    for position in range(start, len(ids)):
        if ids[position] == task.end_id:
            return position
        if any(_ends_with(ids, position + 1, word) for word in task.stop_words):
            return position + 1
    return None


def _ends_with(ids: Sequence[int], length: int, word: Word) -> bool:
    return length >= len(word) and tuple(ids[length - len(word) : length]) == word


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """The length of the beginning that both have."""
    length = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        length += 1
    return length
