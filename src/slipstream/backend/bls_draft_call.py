"""A generation by draft-target speculation from the BLS model; to its caller it is the same as a plain call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.bls_call import EngineCall, EngineFailedError, Part
from slipstream.backend.bls_drafting import Drafting
from slipstream.backend.bls_speculation import Draft, Task, speculate
from slipstream.backend.bls_step_outputs import LOG_PROBS, StepOutputs
from slipstream.backend.tensors import RequestRefusedError, Tensors, flag, integer
from slipstream.backend.words import unpack

# What only the target is told: its adapters do not fit the draft, and nobody reads the draft's figures.
_TARGETS_OWN = frozenset({"lora_task_id", "lora_weights", "lora_config", "return_log_probs", "return_perf_metrics"})
# What this file says itself, in every call.
_SET_HERE = frozenset(
    {
        "input_ids",
        "input_lengths",
        "request_output_len",
        "min_tokens",
        "seed",
        "exclude_input_in_output",
        "return_num_input_tokens",
        "return_num_output_tokens",
        "return_context_logits",
        "return_generation_logits",
    }
)
_SEEDS = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two models of a repository that speculates."""

    target: str
    draft: str
    decoupled: bool  # of both; false in what is rendered
    max_seq_len: int | None  # of both engines, as far as the repository says; None: they see to it themselves


class AbandonedError(Exception):
    """The client has gone away."""


class DraftTargetCall:
    """One generation. All calls of it have one request id, and one runs at a time.

    Between two calls it asks whether the client is still there; a call takes as long as one step of an engine.
    """

    def __init__(self, pair: Pair, drafting: Drafting, *, request_id: str, is_abandoned: Callable[[], bool]) -> None:
        self._pair = pair
        self._drafting = drafting
        self._request_id = request_id
        self._is_abandoned = is_abandoned

    def parts(self, tensors: Tensors, requested: frozenset[str], *, generations: int = 1) -> Iterator[Part]:
        """The whole output as one part; none when the client has gone away. There is one generation."""
        assert generations == 1
        started_ns = time.monotonic_ns()
        task = _task(tensors, self._drafting, self._pair)
        calls = _Calls(self._whole, self._pair, tensors, self._drafting, requested)
        try:
            output = speculate(task, calls)
        except AbandonedError:
            return
        others = calls.outputs.merged(output.steps, started_ns=started_ns)
        ids = output.ids if self._drafting.echo_prompt else output.ids[len(task.prompt_ids) :]
        others |= _counts(tensors, len(task.prompt_ids), len(ids))
        yield Part(ids, is_last=True, others={name: value for name, value in others.items() if name in requested})

    def _whole(self, model: str, tensors: Tensors, requested: frozenset[str]) -> Part:
        """The only response of one call of `model`."""
        if self._is_abandoned():
            raise AbandonedError
        call = EngineCall(
            model, request_id=self._request_id, is_abandoned=self._is_abandoned, decoupled=self._pair.decoupled
        )
        try:
            return list(call.parts(tensors, requested))[-1]
        except EngineFailedError as error:
            raise EngineFailedError(f"{model}: {error}") from error


class _Calls:
    """The two models as `speculate` sees them."""

    def __init__(
        self,
        whole: Callable[[str, Tensors, frozenset[str]], Part],
        pair: Pair,
        tensors: Tensors,
        drafting: Drafting,
        requested: frozenset[str],
    ) -> None:
        self._whole = whole
        self._pair = pair
        self._drafting = drafting
        self._requested = requested | {LOG_PROBS}  # the sum of those is made of them
        self._min_tokens = integer(tensors, "min_tokens") or 0
        self._seed = integer(tensors, "seed") or 0
        self._shared = {name: tensor for name, tensor in tensors.items() if name not in _SET_HERE}
        self.outputs = StepOutputs(wants_metrics=bool(flag(tensors, "return_perf_metrics")))

    def propose(self, ids: list[int], produced: int, count: int) -> Draft:
        """The draft model's next `count` tokens; the end id is not among them, for it must not end."""
        tensors = {name: tensor for name, tensor in self._shared.items() if name not in _TARGETS_OWN}
        tensors |= _request(ids, count, min_tokens=count, seed=self._draft_seed(produced))
        if not self._drafting.use_draft_logits:
            return Draft(ids=self._new_ids(self._pair.draft, ids, self._whole(self._pair.draft, tensors, frozenset())))
        tensors["return_generation_logits"] = np.array([[True]])
        part = self._whole(self._pair.draft, tensors, frozenset({"generation_logits"}))
        proposed = self._new_ids(self._pair.draft, ids, part)
        return Draft(ids=proposed, logits=self._logits(part, len(proposed)) if proposed else None)

    def verify(self, ids: list[int], produced: int, draft: Draft) -> list[int]:
        """The target's tokens after `ids`, at most one more than the draft has."""
        most = len(draft.ids) + 1
        min_tokens = min(max(self._min_tokens - produced, 0), most)
        tensors = self._shared | _request(ids, most, min_tokens=min_tokens, seed=self._seed_after(produced))
        if draft.ids:
            tensors["draft_input_ids"] = np.array([draft.ids], np.int32)
        if draft.logits is not None:
            tensors["draft_logits"] = draft.logits[np.newaxis]
        part = self._whole(self._pair.target, tensors, self._requested)
        self.outputs.add(part.others)
        return self._new_ids(self._pair.target, ids, part)

    def _new_ids(self, model: str, ids: list[int], part: Part) -> list[int]:
        if part.ids[: len(ids)] != ids:
            raise EngineFailedError(
                f"{model}: the output of {len(part.ids)} tokens does not begin with the {len(ids)} it was given:"
                " exclude_input_in_output must be false for it"
            )
        return part.ids[len(ids) :]

    def _logits(self, part: Part, count: int) -> NDArray[Any]:
        """The last `count` rows of what the draft gave [1, 1, tokens, vocabulary]."""
        if "generation_logits" not in part.others:
            raise EngineFailedError(
                f"{self._pair.draft}: gave no logits: leave use_draft_logits out, or build its engine to gather them"
            )
        logits: NDArray[Any] = part.others["generation_logits"][0][0]
        return logits[-count:]

    def _seed_after(self, produced: int) -> int:
        """A seed of its own for every step: with one for all, each would begin with the same draws."""
        return (self._seed + produced) % _SEEDS

    def _draft_seed(self, produced: int) -> int:
        """The target's, so that equal probabilities draw equal tokens; acceptance by logits needs other draws."""
        seed = self._seed_after(produced)
        return seed ^ (_SEEDS - 1) if self._drafting.use_draft_logits else seed


def _request(ids: list[int], most: int, *, min_tokens: int, seed: int) -> dict[str, NDArray[Any]]:
    """What differs from call to call, and the echo of the prompt that tells where the output begins."""
    tensors: dict[str, NDArray[Any]] = {
        "input_ids": np.array([ids], np.int32),
        "input_lengths": np.array([[len(ids)]], np.int32),
        "request_output_len": np.array([[most]], np.int32),
        "seed": np.array([[seed]], np.uint64),
        "exclude_input_in_output": np.array([[False]]),
    }
    if min_tokens:
        tensors["min_tokens"] = np.array([[min_tokens]], np.int32)
    return tensors


def _task(tensors: Tensors, drafting: Drafting, pair: Pair) -> Task:
    prompt_ids: list[int] = tensors["input_ids"].reshape(-1).tolist()
    max_length = len(prompt_ids) + (integer(tensors, "request_output_len") or 0)
    if pair.max_seq_len is not None:
        if len(prompt_ids) >= pair.max_seq_len:
            raise RequestRefusedError(
                f"the prompt has {len(prompt_ids)} tokens, max_seq_len is {pair.max_seq_len}:"
                " no room for output is left"
            )
        max_length = min(max_length, pair.max_seq_len)
    end_id = integer(tensors, "end_id")
    return Task(
        prompt_ids=prompt_ids,
        max_length=max_length,
        num_draft_tokens=drafting.num_draft_tokens,
        end_id=-1 if end_id is None else end_id,
        stop_words=unpack(tensors, "stop_words_list"),
    )


def _counts(tensors: Tensors, num_input: int, num_output: int) -> dict[str, NDArray[Any]]:
    """Counts of the whole request; an echoed prompt counts as output, as in a plain call."""
    wished = (
        ("num_input_tokens", "return_num_input_tokens", num_input),
        ("num_output_tokens", "return_num_output_tokens", num_output),
    )
    return {name: np.array([[count]], np.int32) for name, wish, count in wished if flag(tensors, wish)}
