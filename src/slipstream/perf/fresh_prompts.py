"""Prompts of an exact length that no earlier run has had: a reused prefix would flatter whoever comes second."""

from __future__ import annotations

from slipstream.text.tokenizer import Tokenizer


class FreshPrompts:
    """Windows of a text, each with a number of its own in front."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self._tokenizer = tokenizer
        self._ids = tokenizer.encode(text, add_special_tokens=False)
        self._next = 0

    def take(self, count: int, tokens: int) -> list[tuple[str, list[int]]]:
        """`count` prompts of `tokens` tokens, as text and as ids; windows that tokenize otherwise are passed over."""
        taken: list[tuple[str, list[int]]] = []
        while len(taken) < count:
            number = self._tokenizer.encode(f"{self._next:06d}\n", add_special_tokens=False)
            start = (self._next * 37) % (len(self._ids) - tokens)
            ids = [*number, *self._ids[start : start + tokens - len(number)]]
            self._next += 1
            prompt = self._tokenizer.decode(ids)
            if self._tokenizer.encode(prompt, add_special_tokens=False) == ids:
                taken.append((prompt, ids))
        return taken
