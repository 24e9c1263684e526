"""Bad words: a grammar for every text that does not hold them.

The pipeline has no list of banned words, but it can be held to a grammar. The texts without certain words form a
regular language: an automaton (Aho and Corasick's) walks along the text and remembers how much of a word it ends
with; the step that would complete a word does not exist. Each of its states becomes one right-linear rule.

The words are matched as text, so a word cannot slip through in other tokens either. While a grammar is in force the
model writes no special tokens besides the one that ends the text. The first use of a grammar costs its compilation,
about 8 ms a character on two cores, during which the other streams wait; the masks of a step cost little.
"""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.backend.tensors import RequestRefusedError
from slipstream.backend.words import Word
from slipstream.text.tokenizer import Tokenizer

_MOST_CHARACTERS = 300  # of all words together: rules grow with it, and so does the time that all streams wait


def grammar_without(words: Sequence[str]) -> str:
    """EBNF for the texts, also empty ones, in which none of `words` occurs."""
    states = _Automaton(words)
    rules = [f"root ::= {_rule(0)}"]
    rules += [f"{_rule(number)} ::= {states.alternatives(state)}" for state, number in states.numbers.items()]
    return "\n".join(rules)


def bad_texts(words: Sequence[Word], tokenizer: Tokenizer | None) -> tuple[str, ...]:
    """The text of each word; `RequestRefusedError` for one that has none."""
    if words and tokenizer is None:
        raise RequestRefusedError("bad_words_list: the engine was built without a tokenizer; leave it out")
    texts = tuple(_text(word, tokenizer) for word in words if tokenizer is not None)
    if sum(map(len, texts)) > _MOST_CHARACTERS:
        raise RequestRefusedError(
            f"bad_words_list: the words have {sum(map(len, texts))} characters, the limit is {_MOST_CHARACTERS}"
        )
    return texts


def _text(word: Word, tokenizer: Tokenizer) -> str:
    text = tokenizer.decode(word)
    if not text or "\ufffd" in text:
        raise RequestRefusedError(
            f"bad_words_list: the word of ids {list(word)} is no text, and only texts can be banned"
        )
    return text


class _Automaton:
    """States are the beginnings of words; the state after a text is the longest one that it ends with."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        beginnings = {word[:length] for word in words for length in range(len(word))}
        self.numbers = {state: number for number, state in enumerate(sorted({"", *beginnings}, key=len))}
        self._characters = sorted({character for word in words for character in word})

    def alternatives(self, state: str) -> str:
        """How a text may go on in `state`: end, or a character and the state it leads to."""
        leading_to: dict[int, str] = {}
        for character in self._characters:
            if not (state + character).endswith(self._words):
                number = self._after(state + character)
                leading_to[number] = leading_to.get(number, "") + _escape(character)
        others = "".join(map(_escape, self._characters))
        ways = [f"[{characters}] {_rule(number)}" for number, characters in leading_to.items()]
        return " | ".join(['""', *ways, f"[^{others}] {_rule(0)}"])

    def _after(self, text: str) -> int:
        return next(self.numbers[text[cut:]] for cut in range(len(text) + 1) if text[cut:] in self.numbers)


def _rule(number: int) -> str:
    return f"s{number}"


def _escape(character: str) -> str:
    return f"\\U{ord(character):08X}"
