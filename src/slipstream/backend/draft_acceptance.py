"""Accepting a draft by the probabilities of both models instead of by equal tokens (`draft_logits`).

A token x of the draft is kept with probability min(1, p(x) / q(x)), where p is the target's and q the draft's; the
first one that is not kept is replaced by a draw from max(p - q, 0). What comes out is distributed as if the target had
drawn it alone (Leviathan et al., "Fast Inference from Transformers via Speculative Decoding"). With
`draft_acceptance_threshold` a token is kept where p(x) / q(x) reaches it, which is not that distribution any more.

As in TensorRT-LLM's `externalDraftTokensKernels.cu`, save that there q is the softmax of the draft's logits as they
are; here `temperature`, `runtime_top_k` and `runtime_top_p` act on q as on p, for with them the draft was drawn.

A greedy request needs no logits: p is 1 for one token and 0 for the others, so the kept tokens are the equal ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.draft import DRAFT_IDS
from slipstream.backend.tensors import RequestRefusedError, Tensors, is_given, number

LOGITS, THRESHOLD = "draft_logits", "draft_acceptance_threshold"
# What would have to act on the logits of the pass as the pipeline has it act on its own.
_NOT_TOGETHER = {
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "bad_words_list": None,
    "guided_decoding_guide_type": None,
}

Rows = NDArray[np.float32] | NDArray[np.float64]


class Drawing(Protocol):
    """How tokens are drawn."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int | None: ...
    @property
    def top_p(self) -> float | None: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Acceptance:
    """What a draft is accepted by."""

    logits: NDArray[np.float32]  # of the draft [tokens, vocabulary]
    threshold: float | None  # none: by chance

    def without(self, token: int) -> Acceptance:
        """The same for a draft that could not hold `token`."""
        logits = self.logits.copy()
        logits[:, token] = -np.inf
        return replace(self, logits=logits)


def read_acceptance(
    tensors: Tensors, *, draft_ids: tuple[int, ...], vocab_size: int, is_greedy: bool
) -> Acceptance | None:
    """How the request wants its draft accepted; none by equal tokens."""
    threshold = number(tensors, THRESHOLD)
    if not is_given(tensors, LOGITS):
        if threshold is not None:
            raise RequestRefusedError(f"{THRESHOLD} is given and {LOGITS} missing: equal tokens have no threshold")
        return None
    if not draft_ids:
        raise RequestRefusedError(f"{LOGITS} is given and {DRAFT_IDS} missing: send the tokens, too")
    logits = tensors[LOGITS]
    if logits.size != len(draft_ids) * vocab_size or logits.shape[-2:] != (len(draft_ids), vocab_size):
        wanted = [1, len(draft_ids), vocab_size]
        raise RequestRefusedError(f"{LOGITS} has shape {list(logits.shape)}, it must be {wanted}")
    if threshold is not None and not 0 < threshold <= 1:
        raise RequestRefusedError(f"{THRESHOLD} is {threshold:g}, it must be above 0 and at most 1")
    if is_greedy:
        return None
    if not np.isfinite(logits).all():
        raise RequestRefusedError(f"{LOGITS} holds values that are not finite")
    _refuse_others(tensors)
    return Acceptance(logits=logits.reshape(len(draft_ids), vocab_size), threshold=threshold)


def accept(
    rows: Rows, draft_ids: tuple[int, ...], acceptance: Acceptance, drawing: Drawing, chance: np.random.Generator
) -> list[int]:
    """The tokens of `draft_ids` that are kept, and one more; `rows` [draft + 1, vocabulary] are the target's logits."""
    kept: list[int] = []
    for position, token in enumerate(draft_ids):
        target = probabilities(rows[position], drawing)
        draft = probabilities(acceptance.logits[position], drawing)
        threshold = chance.random() if acceptance.threshold is None else acceptance.threshold
        if target[token] == 0 or target[token] < threshold * draft[token]:
            return [*kept, _draw(np.maximum(target - draft, 0), target, chance)]
        kept.append(token)
    last = probabilities(rows[len(draft_ids)], drawing)
    return [*kept, _draw(last, last, chance)]


def probabilities(logits: NDArray[np.float32] | NDArray[np.float64], drawing: Drawing) -> NDArray[np.float64]:
    """What the pipeline draws from: the most probable tokens that reach `top_p`, and of these the first `top_k`."""
    scaled = logits.astype(np.float64) / drawing.temperature
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    order = np.argsort(-weights, kind="stable")
    count = len(order)
    if drawing.top_p is not None:
        count = int(np.searchsorted(np.cumsum(weights[order]), drawing.top_p)) + 1
    if drawing.top_k is not None:
        count = min(count, drawing.top_k)
    weights[order[count:]] = 0
    kept: NDArray[np.float64] = weights / weights.sum()
    return kept


def _draw(weights: NDArray[np.float64], otherwise: NDArray[np.float64], chance: np.random.Generator) -> int:
    """A token by `weights`; by `otherwise` where they are all 0, when the two models agree to the last digit."""
    total = weights.sum()
    return int(chance.choice(len(weights), p=weights / total if total > 0 else otherwise))


def _refuse_others(tensors: Tensors) -> None:
    for name, neutral in _NOT_TOGETHER.items():
        if is_given(tensors, name) and (neutral is None or float(tensors[name].reshape(-1)[0]) != neutral):
            raise RequestRefusedError(
                f"{LOGITS} and {name} are given: probabilities are compared as the model gives them; leave one out"
            )
