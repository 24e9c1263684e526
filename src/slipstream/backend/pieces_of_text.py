"""The text of one response's tokens, which may be the middle of a text."""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.text.tokenizer import Tokenizer


class PieceDecoder:
    """Decodes pieces so that they join to the decoded whole, if no piece but the last ends inside a character.

    Only byte-level tokenizers give a token the same text wherever it stands; those of other families drop or add a
    space at the beginning of whatever they decode. There a piece from the middle of a text is decoded behind a token
    whose text is known, and that text is cut off. What it cannot do without state: a decoder that drops two characters
    or more at the beginning of a text drops them from the first piece only, and one of words that end in `</w>` (GPT-1,
    CLIP) loses the spaces between pieces. No generative model that Triton serves is known to have either.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._lead = None if tokenizer.token_bytes.is_byte_level else _lead_token(tokenizer)
        self._lead_text = "" if self._lead is None else tokenizer.decode([self._lead])

    def decode(self, ids: Sequence[int], *, begins_text: bool) -> str:
        """The text of `ids`."""
        if begins_text or self._lead is None:
            return self._text(ids)
        return self._text([self._lead, *ids])[len(self._lead_text) :]

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip_special_tokens)


def _lead_token(tokenizer: Tokenizer) -> int | None:
    """The first token that is a word of Latin letters: no decoder joins those to a byte or takes them for a space."""
    for token in range(tokenizer.vocab_size):
        if token in tokenizer.special_ids or tokenizer.token_bytes.spelled(token):
            continue
        text = tokenizer.decode([token])
        if text.isascii() and text.isalpha():
            return token
    return None
