"""The text of one response's tokens, which may be the middle of a text."""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.text.tokenizer import Tokenizer


class PieceDecoder:
    """Decodes pieces so that they join to the decoded whole.

    Tokenizers of the SentencePiece family drop the space before the first word of whatever they decode. A piece from
    the middle of a text is therefore decoded behind a token whose text is known, and that text is cut off.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> None:
        self._fast = tokenizer.fast
        self._skip_special_tokens = skip_special_tokens
        self._lead = _lead_token(tokenizer)
        self._lead_text = "" if self._lead is None else self._text([self._lead])

    def decode(self, ids: Sequence[int], *, begins_text: bool) -> str:
        """The text of `ids`."""
        if begins_text or self._lead is None:
            return self._text(ids)
        return self._text([self._lead, *ids])[len(self._lead_text) :]

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self._fast.decode(list(ids), skip_special_tokens=self._skip_special_tokens)
        return text


def _lead_token(tokenizer: Tokenizer) -> int | None:
    """A plain token to decode behind; none where decoding the same token twice gives its text twice, as it should."""
    token = next((token for token in tokenizer.encode("a b", add_special_tokens=False)[1:]), None)
    if token is None:
        return None
    once = tokenizer.decode([token])
    return None if tokenizer.decode([token, token]) == once + once else token
