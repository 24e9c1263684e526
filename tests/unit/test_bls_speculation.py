"""The loop of draft-target speculation, what a request may ask of it, and the figures of its steps."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.backend.bls_drafting import Drafting, read_drafting
from slipstream.backend.bls_speculation import Draft, Output, Step, Task, speculate
from slipstream.backend.bls_step_outputs import StepOutputs
from slipstream.backend.tensors import RequestRefusedError

END = 9  # of the ten ids of a toy


@dataclass
class Toys:
    """Two models over ten ids; the draft is right in `right` of ten cases. They count what they are asked."""

    right: int
    writes_on: bool = True  # the target does not look at stop words
    is_muted_at: int | None = None  # the call at which the draft proposes nothing
    asked: list[int] = field(default_factory=list)
    verified: list[int] = field(default_factory=list)

    def propose(self, ids: list[int], produced: int, count: int) -> Draft:
        self.asked.append(count)
        if len(self.asked) == self.is_muted_at:
            return Draft(ids=[])
        new: list[int] = []
        while len(new) < count:
            token = truth([*ids, *new], masks_end=True)
            wrong = mixed([*ids, *new, 3]) % 10 >= self.right
            new.append((token + 1) % END if wrong else token)
        return Draft(ids=new)

    def verify(self, ids: list[int], produced: int, draft: Draft) -> list[int]:
        self.verified.append(len(draft.ids))
        assert len(self.verified) < 100, "the loop does not end"
        new: list[int] = []
        while len(new) <= len(draft.ids):
            token = truth([*ids, *new])
            if token == END:
                break
            new.append(token)
            if len(new) > len(draft.ids) or token != draft.ids[len(new) - 1]:
                break
        return new


def truth(ids: Sequence[int], *, masks_end: bool = False) -> int:
    value = mixed(ids)
    return END if value % 13 == 0 and not masks_end else value // 13 % END


def mixed(ids: Sequence[int]) -> int:
    return zlib.crc32(bytes(ids[-2:]))


def alone(task: Task) -> list[int]:
    """What the target writes without a draft."""
    ids = list(task.prompt_ids)
    while len(ids) < task.max_length:
        token = truth(ids)
        if token == END:
            break
        ids.append(token)
        if any(tuple(ids[-len(word) :]) == word for word in task.stop_words):
            break
    return ids


def a_task(prompt: Sequence[int] = (1, 2), *, max_tokens: int = 12, drafts: int = 3, **changes: Any) -> Task:
    values = {"end_id": END, "stop_words": (), "prompt_ids": list(prompt), "num_draft_tokens": drafts} | changes
    return Task(max_length=len(prompt) + max_tokens, **values)


ids = st.lists(st.integers(0, END - 1), min_size=1, max_size=5)


@settings(max_examples=400, deadline=None)
@given(
    prompt=ids,
    max_tokens=st.integers(1, 40),
    drafts=st.integers(1, 8),
    right=st.integers(0, 10),
    words=st.lists(st.lists(st.integers(0, END - 1), min_size=1, max_size=3).map(tuple), max_size=2),
)
def test_the_output_is_what_the_target_writes_alone(
    prompt: list[int], max_tokens: int, drafts: int, right: int, words: list[tuple[int, ...]]
) -> None:
    task = a_task(prompt, max_tokens=max_tokens, drafts=drafts, stop_words=tuple(words))
    toys = Toys(right=right)
    output = speculate(task, toys)
    assert output.ids == alone(task)
    assert sum(step.num_kept for step in output.steps) == len(output.ids) - len(prompt)
    assert all(0 < count <= drafts for count in toys.asked)
    assert all(step.num_accepted <= step.num_drafted for step in output.steps)


def long_prompt(max_tokens: int) -> list[int]:
    """A prompt after which the target writes `max_tokens` tokens at least."""
    return next(
        prompt
        for number in range(1000)
        if len(alone(a_task(prompt := [number // 9 % 9, number % 9], max_tokens=max_tokens))) == 2 + max_tokens
    )


@pytest.mark.parametrize(
    ("max_tokens", "drafts", "asked"), [(1, 3, []), (2, 3, [1]), (4, 3, [3]), (5, 3, [3]), (10, 3, [3, 3, 1])]
)
def test_a_draft_leaves_room_for_the_targets_own_token(max_tokens: int, drafts: int, asked: list[int]) -> None:
    toys = Toys(right=10)
    output = speculate(a_task(long_prompt(max_tokens), max_tokens=max_tokens, drafts=drafts), toys)
    assert toys.asked == asked
    assert len(output.ids) == 2 + max_tokens


def test_figures_count_what_the_target_accepted() -> None:
    prompt = long_prompt(12)
    right = speculate(a_task(prompt), Toys(right=10))
    assert [(step.num_drafted, step.num_accepted, step.num_kept) for step in right.steps] == [(3, 3, 4)] * 3
    wrong = speculate(a_task(prompt), Toys(right=0))
    assert {step.num_accepted for step in wrong.steps} == {0}
    assert [step.num_accepted for step in scripted([5, 5, 5]).steps] == [3]
    assert [step.num_accepted for step in scripted([5, 5], []).steps] == [2, 0]
    assert len(wrong.steps) == 12


def test_a_step_without_a_draft_asks_the_target_for_one_token() -> None:
    toys = Toys(right=10, is_muted_at=2)
    prompt = long_prompt(12)
    assert speculate(a_task(prompt), toys).ids == alone(a_task(prompt))
    assert toys.verified[:3] == [3, 0, 3]


class Scripted:
    """A target that gives back what a test says, step by step."""

    def __init__(self, *answers: list[int]) -> None:
        self.answers = list(answers)

    def propose(self, ids: list[int], produced: int, count: int) -> Draft:
        return Draft(ids=[5] * count)

    def verify(self, ids: list[int], produced: int, draft: Draft) -> list[int]:
        return self.answers.pop(0)


def scripted(*answers: list[int], **changes: Any) -> Output:
    return speculate(a_task(**changes), Scripted(*answers))


def test_no_progress_ends_the_output() -> None:
    assert scripted([4], [], [7]).ids == [1, 2, 4]


def test_a_target_that_gives_the_draft_back_has_ended() -> None:
    assert scripted([5, 5, 5], [7]).ids == [1, 2, 5, 5, 5]
    # With a token of its own, or with part of the draft, it has not.
    assert scripted([5, 5, 5, 5], []).ids == [1, 2, 5, 5, 5, 5]
    assert scripted([5, 5], [7], []).ids == [1, 2, 5, 5, 7]


def test_an_end_id_in_the_output_ends_it_and_is_left_out() -> None:
    assert scripted([5, END, 5], [7]).ids == [1, 2, 5]
    assert scripted([5, END, 5], [], end_id=-1).ids == [1, 2, 5, END, 5]


def test_a_stop_word_may_begin_in_the_prompt_but_not_end_there() -> None:
    assert scripted([3, 4], [7], stop_words=((2, 3),)).ids == [1, 2, 3]
    assert scripted([3, 4], [], stop_words=((1, 2),)).ids == [1, 2, 3, 4]


def test_an_engine_that_gives_too_much_does_not_pass_the_length() -> None:
    assert scripted([3, 3, 3, 3, 3, 3], max_tokens=4).ids == [1, 2, 3, 3, 3, 3]


# Requests


def a_request(**changes: Any) -> dict[str, np.ndarray[Any, Any]]:
    values = {"num_draft_tokens": 3, "stream": False} | changes
    return {name: np.array([[value]]) for name, value in values.items() if value is not None}


def read(**changes: Any) -> Drafting | None:
    return read_drafting(a_request(**changes), has_draft_model=True)


def test_a_request_for_speculation_is_read() -> None:
    assert read() == Drafting(num_draft_tokens=3, use_draft_logits=False, echo_prompt=True)
    all_else = Drafting(num_draft_tokens=4, use_draft_logits=True, echo_prompt=False)
    assert read(num_draft_tokens=4, use_draft_logits=True, exclude_input_in_output=True) == all_else
    assert read(exclude_input_in_output=False, beam_width=1, return_context_logits=False) == read()


@pytest.mark.parametrize("count", [None, 0])
def test_without_draft_tokens_nothing_is_speculated_or_refused(count: int | None) -> None:
    assert read(num_draft_tokens=count, use_draft_logits=True, stream=None, return_context_logits=True) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stream": None}, "num_draft_tokens is 3 and stream is missing: .*send stream=false"),
        ({"stream": True}, "stream is true: .*one response"),
        ({"return_context_logits": True}, "return_context_logits is true"),
        ({"return_generation_logits": True}, "return_generation_logits is true"),
        ({"beam_width": 2}, "beam_width is 2: .*limit is 1"),
        ({"num_return_sequences": 2}, "num_return_sequences is 2: .*limit is 1"),
        ({"guided_decoding_guide_type": "json"}, "guided_decoding_guide_type is given"),
        ({"guided_decoding_guide": "{}"}, "guided_decoding_guide is given"),
        ({"prompt_embedding_table": 0.5}, "prompt_embedding_table is given"),
    ],
)
def test_what_cannot_be_asked_together_is_named_with_its_limit(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestRefusedError, match=words):
        read(**changes)


def test_several_prompts_are_refused() -> None:
    request = a_request() | {"num_draft_tokens": np.array([[3], [3]])}
    with pytest.raises(RequestRefusedError, match="num_draft_tokens has 2 elements"):
        read_drafting(request, has_draft_model=True)


@pytest.mark.parametrize(
    "changes", [{}, {"num_draft_tokens": None, "use_draft_logits": True}, {"use_draft_logits": True}]
)
def test_a_repository_without_a_draft_says_how_to_get_one(changes: dict[str, Any]) -> None:
    with pytest.raises(RequestRefusedError, match=r"no draft model: give the deployment an engine\.draft"):
        read_drafting(a_request(**changes), has_draft_model=False)


# Figures


def a_step(drafted: int = 3, accepted: int = 3, kept: int = 4) -> Step:
    return Step(num_drafted=drafted, num_accepted=accepted, num_kept=kept)


def figures(outputs: Sequence[dict[str, Any]], steps: Sequence[Step]) -> dict[str, Any]:
    collected = StepOutputs(wants_metrics=True)
    for output in outputs:
        collected.add({name: np.array(value) for name, value in output.items()})
    return {name: value.reshape(-1).tolist() for name, value in collected.merged(steps, started_ns=5).items()}


def test_blocks_are_summed_and_times_span_the_steps() -> None:
    steps = [
        {"kv_cache_reused_blocks": [[4]], "first_token_time_ns": [[10]], "last_token_time_ns": [[11]]},
        {"kv_cache_reused_blocks": [[6]], "first_token_time_ns": [[20]], "last_token_time_ns": [[21]]},
    ]
    found = figures(steps, [a_step(), a_step(3, 0, 1)])
    assert found["kv_cache_reused_blocks"] == [10]
    assert (found["arrival_time_ns"], found["first_token_time_ns"], found["last_token_time_ns"]) == ([5], [10], [21])
    assert (found["total_draft_tokens"], found["total_accepted_draft_tokens"], found["acceptance_rate"]) == (
        [6],
        [3],
        [0.5],
    )


def test_nothing_drafted_is_a_rate_of_zero() -> None:
    assert figures([{}], [a_step(0, 0, 1)])["acceptance_rate"] == [0.0]


def test_log_probs_are_those_of_the_kept_tokens() -> None:
    outputs = [{"output_log_probs": [[[-1.0, -2.0]]]}, {"output_log_probs": [[[-3.0, -4.0, -5.0]]]}]
    found = figures(outputs, [a_step(kept=2), a_step(kept=1)])
    assert found["output_log_probs"] == [-1.0, -2.0, -3.0]
    assert found["cum_log_probs"] == [-6.0]
    assert "cum_log_probs" not in figures([{}], [a_step()])
