"""Incremental detokenization: text comes out as soon as its characters are whole, and never a broken one.

`tokenizers.decoders.DecodeStream` does the work. Added here is what it does not do: letting out the end of a stream
that stops inside a character, going on after bytes that are no character, and bounded work on such bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

from slipstream.text.tokenizer import Tokenizer

# A character takes at most four tokens (one a byte). A longer wait means bytes that are no text, and since every
# step decodes all held tokens again, an endless one would cost quadratic time.
MOST_HELD_TOKENS = 64


class Detokenizer:
    """The text of one token stream, piece by piece: `push` ids as they come, then `finish` once.

    The pieces join to `tokenizer.decode(all ids)`. There is one exception: byte-fallback tokenizers decode a whole run
    of byte tokens to U+FFFD when one byte in it is bad, and here the characters already let out stay as they are.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._fast = tokenizer.fast
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._stream = DecodeStream(skip_special_tokens=False)
        self._context: list[int] = []  # tokens of the last piece: they decide on a leading space
        self._held: list[int] = []

    @property
    def is_holding(self) -> bool:
        """Tokens were pushed whose text is not out yet, as a rule the first bytes of a character."""
        return bool(self._held)

    def push(self, ids: Sequence[int]) -> str:
        """Take the next `ids`; the text that they complete, often empty."""
        return "".join([self._step(token) for token in ids if token not in self._skipped])

    def finish(self) -> str:
        """End the stream; the text still held, bytes of an unfinished character as U+FFFD."""
        return self._let_go() if self._held else ""

    def _step(self, token: int) -> str:
        self._held.append(token)
        try:
            piece = self._stream.step(self._fast, token)
        except Exception as error:  # the Rust binding has no narrower type
            if "prefix" not in str(error).lower():
                raise
            return self._let_go()
        if piece is not None:
            self._context, self._held = self._held, []
            return str(piece)
        return self._let_go() if len(self._held) >= MOST_HELD_TOKENS else ""

    def _let_go(self) -> str:
        """Text of the held tokens as they stand; the stream goes on behind them."""
        before: str = self._fast.decode(self._context, skip_special_tokens=False)
        both: str = self._fast.decode(self._context + self._held, skip_special_tokens=False)
        if both.startswith(before):
            piece = both[len(before) :]
        else:
            # The held bytes spoil the run of bytes that the last piece came from: decode them without it.
            piece = self._fast.decode(self._held, skip_special_tokens=False)
        if not piece.endswith("\ufffd"):  # else the older context stays: the stream would give a broken one out again
            self._context = self._held
        self._held = []
        self._stream = DecodeStream(ids=self._context, skip_special_tokens=False)
        return piece
