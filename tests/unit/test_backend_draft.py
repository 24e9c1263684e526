"""Draft tokens of a client: where the output ends, what is counted, and what is refused together with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from slipstream.backend.messages import Tokens
from slipstream.backend.responses import response_tensors
from slipstream.backend.stream import Stream
from slipstream.backend.trailer import CALL
from tests.unit.engine_bench import a_request
from tests.unit.test_backend_requests import a_profile, read, refusal

METRICS = ("acceptance_rate", "total_accepted_draft_tokens", "total_draft_tokens")


def verified(draft: tuple[int, ...], written: list[int], *, at_once: bool = False) -> tuple[list[int], list[float]]:
    """What comes of a draft when the engine would write `written`, and the figures of the last response."""
    request = replace(a_request(streaming=False, perf_metrics=True), draft_ids=draft)
    stream = Stream(handle=7, request=request, vocabulary=None, interval=1)
    for ids in [written] if at_once else [[token] for token in written]:
        if stream.push(Tokens(7, ids)):
            break
    piece = stream.take()
    assert piece is not None, "the draft did not end the output"
    assert piece.is_last
    found = response_tensors(stream, piece, frozenset(METRICS))
    return piece.ids, [found[name].item() for name in METRICS]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
    ("draft", "output", "accepted"),
    [((10, 11, 12), [10, 11, 12, 13], 3), ((10, 99, 12), [10, 11], 1), ((99, 11), [10], 0), ((10,), [10, 11], 1)],
)
def test_the_output_is_what_is_accepted_and_one_token_more(
    draft: tuple[int, ...], output: list[int], accepted: int, at_once: bool
) -> None:
    ids, figures = verified(draft, [10, 11, 12, 13, 14], at_once=at_once)
    assert ids == output
    assert figures == [pytest.approx(accepted / len(draft)), accepted, len(draft)]


def test_a_draft_is_read_and_bounds_the_output() -> None:
    request = read(draft_input_ids=[[8, 9]], request_output_len=[7])
    assert request.draft_ids == (8, 9)
    assert request.stop.max_new_tokens == 3
    assert read(draft_input_ids=[[8, 9]], request_output_len=[2]).stop.max_new_tokens == 2
    assert read().draft_ids == ()


def test_a_draft_that_cannot_be_verified_is_refused_by_name() -> None:
    assert "draft_input_ids holds 100" in refusal(draft_input_ids=[[8, 100]])
    limits = replace(a_profile().limits, max_draft_len=2)
    said = refusal(replace(a_profile(), limits=limits), draft_input_ids=[[8, 9, 8]])
    assert said == "draft_input_ids holds 3 tokens, the limit max_draft_len is 2"


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty", "bad_words_list"])
def test_what_counts_from_the_begin_of_the_output_is_refused_in_a_step_of_the_bls_model(name: str) -> None:
    value: Any = [[[3], [1]]] if name == "bad_words_list" else np.array([[0.5]], np.float32)
    step = {"prompt_table_extra_ids": np.array([[CALL]], np.uint64)}
    assert refusal(draft_input_ids=[[8]], **{name: value}, **step).startswith(f"{name}: ")
    assert read(draft_input_ids=[[8]], **{name: value}).draft_ids == (8,)
    assert read(**{name: value}, **step).draft_ids == ()
