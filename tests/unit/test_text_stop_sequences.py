"""Stop strings cut the text at the same place however it is streamed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.errors import SlipstreamError
from slipstream.text.stop_sequences import StopMatcher

# A tiny alphabet makes overlapping and nested stop strings likely.
LETTERS = st.text("abc", max_size=30)
STOPS = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    text, stop = "", None
    for piece in pieces:
        check = matcher.push(piece)
        text += check.text
        stop = check.stop
    return text + matcher.finish(), stop


def by_hand(stops: list[str], text: str) -> tuple[str, str | None]:
    """The shortest beginning of `text` that ends with a stop string, cut before the longest one there."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            stop = max(ending, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(stops=STOPS, text=LETTERS, cuts=st.lists(st.integers(0, 30)))
def test_any_cutting_of_the_text_gives_the_same_result(stops: list[str], text: str, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(places)]
    assert run(stops, pieces) == by_hand(stops, text)


@given(stops=STOPS, text=LETTERS)
def test_what_is_let_out_is_never_taken_back(stops: list[str], text: str) -> None:
    wanted, _ = by_hand(stops, text)
    matcher = StopMatcher(stops)
    out = ""
    for letter in text:
        out += matcher.push(letter).text
        assert wanted.startswith(out)


def test_a_beginning_of_a_stop_is_held_and_comes_out_when_it_is_none() -> None:
    matcher = StopMatcher(["</s>"])
    assert matcher.push("a </").text == "a "
    assert matcher.is_holding
    assert matcher.push("b").text == "</b"
    assert not matcher.is_holding


def test_text_without_the_beginning_of_a_stop_is_not_delayed() -> None:
    assert StopMatcher(["END"]).push("hello").text == "hello"


def test_everything_after_a_stop_is_dropped() -> None:
    matcher = StopMatcher(["."])
    assert matcher.push("one. two").is_stopped
    assert matcher.push(" three").text == ""
    assert matcher.push(" three").stop == "."
    assert matcher.finish() == ""


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(SlipstreamError, match="empty string"):
        StopMatcher(["a", ""])
