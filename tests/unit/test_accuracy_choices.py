"""Multiple-choice questions made from text."""

from __future__ import annotations

import statistics

import pytest

from slipstream.errors import SlipstreamError
from slipstream.quantize.accuracy.choices import OPTIONS, ChoiceItem, build_items
from slipstream.quantize.corpora import packaged_text


@pytest.fixture(scope="module")
def text() -> str:
    return packaged_text("wikipedia").held_out


@pytest.fixture(scope="module")
def items(text: str) -> list[ChoiceItem]:
    return build_items(text, 500)


def test_five_hundred_questions_of_four_different_options(items: list[ChoiceItem]) -> None:
    assert len(items) == len({item.context for item in items}) == 500
    assert all(len(set(item.options)) == OPTIONS for item in items)


def test_the_answer_follows_its_context_in_the_text_and_no_other_option_does(
    items: list[ChoiceItem], text: str
) -> None:
    plain = " ".join(text.split())
    for item in items:
        follows = [f"{item.context}{option}" in plain for option in item.options]
        assert follows.index(True) == item.answer
        assert sum(follows) == 1


def test_the_answers_place_and_length_give_nothing_away(items: list[ChoiceItem]) -> None:
    places = [sum(item.answer == place for item in items) for place in range(OPTIONS)]
    assert min(places) > 90
    longest = statistics.mean(max(item.options, key=len) == item.options[item.answer] for item in items)
    assert longest < 0.35  # of a guess: 0.25
    apart = [abs(len(option) - len(item.options[item.answer])) for item in items for option in item.options]
    assert statistics.quantiles(apart, n=20)[-1] < 25  # characters


def test_the_same_seed_gives_the_same_questions_and_another_seed_others(text: str, items: list[ChoiceItem]) -> None:
    assert build_items(text, 500) == items
    assert build_items(text, 500, seed=1) != items


def test_a_text_that_is_too_short_is_refused_with_what_it_has(text: str) -> None:
    short = "\n".join(text.splitlines()[:12])
    with pytest.raises(SlipstreamError, match=r"500 questions were asked for, the text has \d+ fitting passages"):
        build_items(short, 500)
