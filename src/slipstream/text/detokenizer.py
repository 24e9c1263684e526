"""Incremental detokenization: text comes out as soon as its characters are whole, and never a broken one."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from slipstream.text.token_bytes import ByteRun
from slipstream.text.tokenizer import Tokenizer

# Tokens that are decoded again with the next: a bound on the work for each. A decoder that changes text already out
# when more tokens follow is waited for this long, then its text is cut.
MOST_HELD_TOKENS = 64


class Detokenizer:
    """The text of one token stream, piece by piece: `push` ids as they come, then `finish` once.

    The pieces join to `tokenizer.decode(all ids)`, whatever the ids and however they are cut.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._text: _ByteText | _WindowText
        self._text = _ByteText(tokenizer) if tokenizer.token_bytes.is_byte_level else _WindowText(tokenizer)

    @property
    def is_holding(self) -> bool:
        """Tokens were pushed whose text is not out yet, as a rule the first bytes of a character."""
        return self._text.is_holding

    def push(self, ids: Sequence[int]) -> str:
        """Take the next `ids`; the text that they complete, often empty."""
        return self._text.push([token for token in ids if token not in self._skipped])

    def finish(self) -> str:
        """End the stream; the text still held, bytes of an unfinished character as U+FFFD."""
        return self._text.finish()


class _ByteText:
    """Text of a byte-level tokenizer: the bytes of all tokens, one after the other."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._spelled = tokenizer.token_bytes.spelled
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def is_holding(self) -> bool:
        return bool(self._decoder.getstate()[0])

    def push(self, ids: Sequence[int]) -> str:
        return self._decoder.decode(b"".join([self._spelled(token) for token in ids]))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _WindowText:
    """Text of names: new ones are decoded behind a few whose text is out, and that text is cut off."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._run = ByteRun()
        self._before: list[str] = []  # names whose text is out
        self._before_text = ""
        self._held: list[str] = []

    @property
    def is_holding(self) -> bool:
        return self._run.is_holding or bool(self._held)

    def push(self, ids: Sequence[int]) -> str:
        known = self._tokenizer.token_bytes
        names: list[str] = []
        for token in ids:
            name = known.name(token)
            if name is not None:
                names += self._run.push(name, known.spelled(token))
        return self._extend(names)

    def finish(self) -> str:
        piece = self._extend(self._run.finish())
        self._held = []
        return piece

    def _extend(self, names: list[str]) -> str:
        if not names:
            return ""
        self._held += names
        window = [*self._before, *self._held]
        text = self._tokenizer.join(window)
        if not text.startswith(self._before_text):
            return self._cut() if len(self._held) >= MOST_HELD_TOKENS else ""
        piece = text[len(self._before_text) :]
        if not piece:
            return ""  # a space that waits for a word, or a decoder that drops the first one
        # A space could be dropped as the first in a window: it needs those before it.
        self._before = window[-MOST_HELD_TOKENS:] if piece.isspace() else self._held
        self._before_text = self._tokenizer.join(self._before)
        self._held = []
        return piece

    def _cut(self) -> str:
        """Text of the held names by themselves."""
        self._before, self._held = self._held, []
        self._before_text = self._tokenizer.join(self._before)
        return self._before_text
