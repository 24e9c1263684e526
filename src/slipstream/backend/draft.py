"""A draft that comes with a request: tokens that may follow its prompt, to be verified by this engine.

`draft_input_ids` asks for one step of verification, as in TensorRT-LLM: the output is the draft's tokens up to the
first that the engine would not have written, and one token of the engine's own. Its backend ends such a request after
that step (`trtGptModelInflightBatching.cpp`), so a longer `request_output_len` changes nothing.

The pipeline has no call that verifies several tokens of a client at once. So the engine writes as ever, token by token,
and the output ends at the first token that differs from the draft: the same tokens, greedy or drawn, at the cost of a
plain generation as long as the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.backend.tensors import RequestRefusedError, Tensors, is_given

DRAFT_IDS = "draft_input_ids"


@dataclass(slots=True)
class DraftCounts:
    """Draft tokens of one request, from wherever they came."""

    proposed: int = 0
    accepted: int = 0

    @property
    def acceptance_rate(self) -> float:
        """0 where nothing was proposed."""
        return self.accepted / self.proposed if self.proposed else 0.0


class DraftCheck:
    """Follows one output along `draft`, and counts what of it is accepted."""

    def __init__(self, draft: Sequence[int], counts: DraftCounts) -> None:
        self._draft = draft
        self._counts = counts
        counts.proposed = len(draft)

    def push(self, token: int) -> bool:
        """Take the next token of the output; true if verification ends with it."""
        position = self._counts.accepted
        if position == len(self._draft) or token != self._draft[position]:
            return True
        self._counts.accepted += 1
        return False


def read_draft(tensors: Tensors, *, most: int | None) -> tuple[int, ...]:
    """The ids in `draft_input_ids`, none if it is absent; the caller checks that the vocabulary has them."""
    if not is_given(tensors, DRAFT_IDS):
        return ()
    ids: tuple[int, ...] = tuple(tensors[DRAFT_IDS].reshape(-1).tolist())
    if most is not None and len(ids) > most:
        raise RequestRefusedError(f"{DRAFT_IDS} holds {len(ids)} tokens, the limit max_draft_len is {most}")
    return ids


def refuse_with_draft(tensors: Tensors) -> None:
    """Refuse what would not mean the same in a step of the BLS model's loop, whose prompt holds the steps before.

    Presence and frequency are counted in the output alone, and the grammar without bad words begins with the output.
    """
    for name in ("presence_penalty", "frequency_penalty"):
        if is_given(tensors, name) and float(tensors[name].reshape(-1)[0]) != 0:
            raise RequestRefusedError(
                f"{name}: it counts the tokens of the output, and each step of speculation begins a new one; leave it"
                " or num_draft_tokens out"
            )
    if is_given(tensors, "bad_words_list"):
        raise RequestRefusedError(
            "bad_words_list: a word could begin in one step of speculation and end in the next; leave it or"
            " num_draft_tokens out"
        )
