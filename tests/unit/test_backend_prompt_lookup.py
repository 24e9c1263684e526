"""Prompt lookup as the pipeline does it, and the forecast of what it would bring."""

from __future__ import annotations

import random

from slipstream.backend.prompt_lookup import LookupForecast, PromptLookup
from slipstream.backend.speculation import MAX_MATCHING_NGRAM_SIZE


def searched(ids: list[int], count: int) -> list[int]:
    """OpenVINO GenAI's search in words: the longest n-gram at the end, and its first place before the end."""
    for size in range(min(MAX_MATCHING_NGRAM_SIZE, len(ids) // 2), 0, -1):
        for start in range(len(ids) - size):
            if ids[start : start + size] == ids[-size:]:
                return ids[start + size : start + size + count]
    return []


def test_it_proposes_what_a_search_of_the_text_finds() -> None:
    source = random.Random(1)
    for _ in range(300):
        ids = [source.randrange(6) for _ in range(source.randrange(1, 30))]
        cut = source.randrange(len(ids))
        lookup = PromptLookup(ids[:cut])
        lookup.extend(ids[cut:])
        assert lookup.propose(3) == searched(ids, 3), ids


def test_a_text_without_repetition_proposes_nothing() -> None:
    assert PromptLookup(range(100)).propose(3) == []


def test_the_forecast_of_a_repeated_text_is_the_draft_and_one_token() -> None:
    period = [1, 2, 3, 4, 5, 6, 7, 8]
    assert LookupForecast(period * 2, 3).push(period * 4) == [4] * 7


def test_the_forecast_of_a_text_without_repetition_is_one_token_a_step() -> None:
    assert LookupForecast(range(50), 3).push(range(50, 60)) == [1] * 9


def test_the_forecast_is_the_same_token_by_token() -> None:
    source = random.Random(2)
    ids = [source.randrange(4) for _ in range(200)]
    singly = LookupForecast(ids[:20], 3)
    assert [step for token in ids[20:] for step in singly.push([token])] == LookupForecast(ids[:20], 3).push(ids[20:])
