"""Pieces of a text that grows: no beginning of a stop string, no half of a character, nothing twice, nothing lost."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slipstream.backend.llmapi_text import GrowingText

LETTERS = st.text("ab€", max_size=12)


def sent(steps: list[str], stops: list[str]) -> tuple[str, str | None]:
    """What goes out over the `steps`, the texts that the engine has after each; the last one is its end."""
    text = GrowingText(stops)
    out = ""
    for index, so_far in enumerate(steps):
        if text.stop is not None:
            break
        out += text.push(so_far, is_last=index == len(steps) - 1)
    return out, text.stop


def test_each_step_brings_what_is_new() -> None:
    text = GrowingText([])
    assert [text.push("one", is_last=False), text.push("one two", is_last=False)] == ["one", " two"]
    assert text.push("one two three", is_last=True) == " three"


def test_a_stop_string_that_comes_in_parts_never_shows() -> None:
    text = GrowingText(["STOP"])
    assert text.push("one ST", is_last=False) == "one "
    assert text.push("one STO", is_last=False) == ""
    assert text.push("one STOP two", is_last=False) == ""
    assert text.stop == "STOP"


def test_the_engine_may_cut_the_stop_string_off_itself() -> None:
    assert sent(["one ST", "one "], ["STOP"]) == ("one ", None)
    assert sent(["one ST", "one S"], ["STOP"]) == ("one S", None)


def test_what_was_held_back_comes_at_the_end() -> None:
    assert sent(["one ST", "one ST"], ["STOP"]) == ("one ST", None)


def test_a_character_waits_for_its_bytes() -> None:
    text = GrowingText([])
    assert text.push("1 \ufffd\ufffd", is_last=False) == "1 "
    assert text.push("1 €", is_last=False) == "€"


def test_a_character_that_never_gets_its_bytes_shows_at_the_end() -> None:
    assert sent(["1 \ufffd", "1 \ufffd"], []) == ("1 \ufffd", None)


@pytest.mark.parametrize("steps", [[""], ["", ""]])
def test_no_text_is_no_text(steps: list[str]) -> None:
    assert sent(steps, ["a"]) == ("", None)


@given(
    text=LETTERS, cuts=st.lists(st.integers(0, 12), max_size=5), stops=st.lists(st.text("ab", min_size=1), max_size=2)
)
@example(text="aab", cuts=[2], stops=["ab"])
def test_how_the_text_is_cut_changes_nothing(text: str, cuts: list[int], stops: list[str]) -> None:
    ends = [*sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert all(first <= second for first, second in pairwise(ends))
    found, stop = sent([text[:end] for end in ends], stops)
    firsts = [text.find(one) + len(one) for one in stops if one in text]
    if firsts:
        assert stop is not None
        assert text.startswith(found + stop)
        assert len(found + stop) == min(firsts)
    else:
        assert (found, stop) == (text, None)
