"""Accepting a draft by probabilities: what comes out is distributed as the target alone would have it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from slipstream.backend.draft_acceptance import Acceptance, accept, probabilities
from slipstream.backend.draft_verification import verified
from slipstream.backend.messages import Ending
from slipstream.backend.requests import GenerationRequest, Sampling
from tests.unit.engine_bench import a_request
from tests.unit.test_backend_requests import read, refusal

VOCABULARY = 7
TRIALS = 20_000
DRAWINGS = (
    Sampling(temperature=1.0, top_k=None, top_p=None, seed=0),
    Sampling(temperature=0.6, top_k=4, top_p=None, seed=0),
    Sampling(temperature=1.5, top_k=5, top_p=0.8, seed=0),
)


@pytest.fixture
def rows() -> tuple[Any, Any]:
    """Logits of a target and of a draft that disagrees with it."""
    chance = np.random.default_rng(5)
    return chance.normal(0, 1.5, (3, VOCABULARY)), chance.normal(0, 1.5, (2, VOCABULARY)).astype(np.float32)


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_the_first_two_tokens_are_distributed_as_the_targets(rows: tuple[Any, Any], drawing: Sampling) -> None:
    target, draft = rows
    first, second = (probabilities(row, drawing) for row in target[:2])
    acceptance, chance = Acceptance(logits=draft, threshold=None), np.random.default_rng(1)
    counts, behind = np.zeros(VOCABULARY), np.zeros(VOCABULARY)
    for _ in range(TRIALS):
        ids = tuple(int(chance.choice(VOCABULARY, p=probabilities(row, drawing))) for row in draft)
        output = accept(target, ids, acceptance, drawing, chance)
        counts[output[0]] += 1
        if len(output) > 1:
            behind[output[1]] += 1
    assert np.abs(counts / TRIALS - first).sum() < 0.03
    assert np.abs(behind / behind.sum() - second).sum() < 0.04


@pytest.mark.parametrize(("threshold", "kept"), [(0.9, []), (0.4, [2])])
def test_a_threshold_decides_without_chance(threshold: float, kept: list[int]) -> None:
    target, draft = np.log([[0.2, 0.5, 0.3]] * 2), np.log([[0.2, 0.2, 0.6]]).astype(np.float32)  # p / q of token 2: 0.5
    acceptance = Acceptance(logits=draft, threshold=threshold)
    for seed in range(20):
        found = accept(target, (2,), acceptance, DRAWINGS[0], np.random.default_rng(seed))
        assert found[:-1] == kept
        if not kept:
            assert found == [1]  # all that is left of p - q


def test_the_kept_tokens_are_the_most_probable_until_top_p_and_of_these_top_k() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.3, 0.2]))
    assert probabilities(logits, replace(DRAWINGS[0], top_p=0.6)) == pytest.approx([0, 4 / 7, 3 / 7, 0])
    assert probabilities(logits, replace(DRAWINGS[0], top_p=0.95, top_k=1)) == pytest.approx([0, 1, 0, 0])
    assert probabilities(logits, replace(DRAWINGS[0], temperature=0.5))[1] == pytest.approx(16 / 30)


def a_verification(draft: tuple[int, ...], *, is_bls_call: bool = False, **rules: Any) -> GenerationRequest:
    """A draft that its own logits make certain."""
    request = a_request(streaming=False, log_probs=True, is_bls_call=is_bls_call)
    logits = np.full((len(draft), VOCABULARY), -30, np.float32)
    logits[range(len(draft)), draft] = 0
    stop = replace(request.stop, **{"max_new_tokens": len(draft) + 1, **rules})
    acceptance = Acceptance(logits=logits, threshold=None)
    return replace(request, sampling=DRAWINGS[0], stop=stop, draft_ids=draft, acceptance=acceptance)


def certain(*tokens: int) -> Any:
    rows = np.full((len(tokens), VOCABULARY), -30, np.float32)
    rows[range(len(tokens)), tokens] = 0
    return rows


def test_the_output_ends_before_the_end_id_and_at_the_length() -> None:
    assert verified(a_verification((3, 4)), certain(3, 4, 5)).ids == [3, 4, 5]
    assert verified(a_verification((3, 4)), certain(3, 6, 5)).ids == [3, 6]
    ended = verified(a_verification((3, 4), end_id=6), certain(3, 6, 5))
    assert (ended.ids, ended.ending) == ([3], Ending.END_ID)
    assert verified(a_verification((3, 4), max_new_tokens=1), certain(3, 4, 5)).ids == [3]
    assert verified(a_verification((3,), end_id=5, min_new_tokens=2), certain(3, 5)).ids != [3]
    assert ended.log_probs == pytest.approx([0], abs=1e-6)


def test_the_draft_of_the_bls_model_is_taken_as_one_that_must_not_end() -> None:
    """Half of the draft's probability is on the end id, which it could not draw: its token was certain."""
    half = np.log(np.array([[0.5, 0.5]])).astype(np.float32)
    kept = {True: 0, False: 0}
    for is_bls_call in kept:
        request = a_verification((0,), is_bls_call=is_bls_call, end_id=1)
        request = replace(request, acceptance=Acceptance(logits=half, threshold=None))
        for seed in range(400):
            drawn = replace(request, sampling=replace(DRAWINGS[0], seed=seed))
            kept[is_bls_call] += verified(drawn, np.log([[0.5, 0.5], [1, 1e-9]])).ids[:1] == [0]
    assert kept[False] == 400
    assert 150 < kept[True] < 250


def test_logits_are_read_with_their_draft() -> None:
    logits = np.zeros((1, 2, 100), np.float32)
    drawn = {"runtime_top_k": [5], "draft_input_ids": [[8, 9]], "draft_logits": logits}
    found = read(**drawn, draft_acceptance_threshold=[[np.float32(0.5)]]).acceptance
    assert found is not None
    assert (found.logits.shape, found.threshold) == ((2, 100), 0.5)
    assert read(**{**drawn, "runtime_top_k": [1]}).acceptance is None  # greedy: equal tokens are the accepted ones


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"draft_input_ids": [[8]]}, "draft_logits has shape [1, 2, 100], it must be [1, 1, 100]"),
        ({"draft_input_ids": np.zeros((1, 0), np.int32)}, "draft_logits is given and draft_input_ids missing"),
        ({"draft_acceptance_threshold": [[0.0]]}, "draft_acceptance_threshold is 0, it must be above 0"),
        ({"draft_acceptance_threshold": [[1.5]]}, "draft_acceptance_threshold is 1.5"),
        ({"draft_logits": np.zeros((1, 0), np.float32), "draft_acceptance_threshold": [[0.5]]}, "draft_logits missing"),
        ({"repetition_penalty": [[1.5]]}, "draft_logits and repetition_penalty are given"),
        ({"bad_words_list": [[[3], [1]]]}, "draft_logits and bad_words_list are given"),
        ({"draft_logits": np.full((1, 2, 100), np.nan, np.float32)}, "not finite"),
    ],
)
def test_logits_that_cannot_be_used_are_refused_in_words(changes: dict[str, Any], said: str) -> None:
    drawn = {"runtime_top_k": [5], "draft_input_ids": [[8, 9]], "draft_logits": np.zeros((1, 2, 100), np.float32)}
    assert said in refusal(**{**drawn, **changes})
