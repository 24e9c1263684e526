"""Stop words: matched on the tokens, and on the text, where the model may have written the word with other tokens."""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.backend.tensors import RequestRefusedError
from slipstream.backend.words import Word
from slipstream.text.detokenizer import Detokenizer
from slipstream.text.tokenizer import Tokenizer


class StopWords:
    """Watches one output for `words`; the tokens of a word that stops it stay in the output.

    A word that ends in the middle of a token stops behind that token. Without a tokenizer only tokens are compared.
    """

    def __init__(self, words: Sequence[Word], tokenizer: Tokenizer | None) -> None:
        self._words = [list(word) for word in words]
        self._longest = max(len(word) for word in words)
        self._last_ids: list[int] = []
        self._texts: tuple[str, ...] = ()
        if tokenizer is not None:
            self._detokenizer = Detokenizer(tokenizer)
            self._texts = tuple(text for word in words if (text := tokenizer.decode(word)))
        self._kept_characters = max((len(text) for text in self._texts), default=1) - 1
        self._last_text = ""

    def push(self, token: int) -> bool:
        """Take the next token of the output; true if it completes a stop word."""
        self._last_ids = [*self._last_ids, token][-self._longest :]
        ends_in_ids = any(self._last_ids[-len(word) :] == word for word in self._words)
        return self._completes_text(token) or ends_in_ids

    def _completes_text(self, token: int) -> bool:
        if not self._texts:
            return False
        window = self._last_text + self._detokenizer.push([token])
        self._last_text = window[-self._kept_characters :] if self._kept_characters else ""
        return any(text in window for text in self._texts)


def stop_texts(words: Sequence[Word], tokenizer: Tokenizer | None) -> tuple[str, ...]:
    """The text of each word, for a search that watches for text; a word of one token may have none.

    `RequestRefusedError` for a longer word that has no text.
    """
    texts = [tokenizer.decode(word) if tokenizer is not None else "" for word in words]
    for word, text in zip(words, texts, strict=True):
        if len(word) > 1 and (not text or "\ufffd" in text):
            raise RequestRefusedError(
                f"stop_words_list: the word of ids {list(word)} is no text, and the engine's beam search stops at texts"
                " and at single tokens; leave it or beam_width out"
            )
    return tuple(text for text in texts if text and "\ufffd" not in text)
