"""The grammar of texts without certain words, checked against plain search."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from slipstream.backend.bad_words import grammar_without

_ALTERNATIVE = re.compile(r"\[(\^?)((?:\\U[0-9A-F]{8})+)\] (s\d+)")


def accepts(grammar: str, text: str) -> bool:
    """Walk along `text` through the right-linear rules of `grammar`."""
    rules = dict(line.split(" ::= ", 1) for line in grammar.splitlines())
    state = rules["root"]
    for character in text:
        following = [
            target
            for negated, characters, target in _ALTERNATIVE.findall(rules[state])
            if (character in _characters(characters)) != bool(negated)
        ]
        assert len(following) <= 1, "the automaton is deterministic"
        if not following:
            return False
        state = following[0]
    return '""' in rules[state]


def _characters(escaped: str) -> set[str]:
    return {chr(int(code, 16)) for code in escaped.split("\\U")[1:]}


@given(
    words=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4),
    text=st.text("abcd", max_size=12),
)
def test_the_grammar_accepts_exactly_the_texts_without_the_words(words: list[str], text: str) -> None:
    assert accepts(grammar_without(words), text) == (not any(word in text for word in words))


def test_a_word_inside_a_half_finished_other_word_is_found() -> None:
    assert not accepts(grammar_without(["abcd", "bc"]), "abc")
    assert accepts(grammar_without(["abcd", "bc"]), "abd")


def test_characters_that_mean_something_in_a_grammar_are_only_characters() -> None:
    grammar = grammar_without(['"]^-\\', "é日"])
    assert not accepts(grammar, 'x"]^-\\y')
    assert not accepts(grammar, "é日")
    assert accepts(grammar, "日é")
