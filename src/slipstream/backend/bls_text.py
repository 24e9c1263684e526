"""The text of a stream of tokens: what is new in it, or all of it so far."""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.text.detokenizer import Detokenizer
from slipstream.text.tokenizer import Tokenizer


class OutputText:
    """Turns each part's tokens into the text to send."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool, accumulates: bool) -> None:
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
        self._accumulates = accumulates
        self._so_far = ""

    def push(self, ids: Sequence[int]) -> str:
        """The text to send after `ids`."""
        return self._text(self._detokenizer.push(ids))

    def finish(self) -> str:
        """The text to send at the end, empty when everything is out."""
        rest = self._detokenizer.finish()
        return self._text(rest) if rest else ""

    def _text(self, delta: str) -> str:
        if not self._accumulates:
            return delta
        self._so_far += delta
        return self._so_far
