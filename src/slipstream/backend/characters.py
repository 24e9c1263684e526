"""Which tokens may travel together: a response must not end inside a character.

Postprocessing in the ensemble decodes every response by itself, so tokens that hold the bytes of one character only
together are released together.
"""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.text.tokenizer import Tokenizer

# Beginnings of characters that nothing completes are let out after this many tokens; a character takes at most four,
# but special tokens may come between them.
_MOST_HELD_TOKENS = 16


class Characters:
    """Knows every token of one vocabulary; built once, at load."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes = tokenizer.token_bytes
        self._silent = tokenizer.special_ids
        # Only these need a closer look; nearly every token ends a character by itself.
        self._open = self._silent | self._bytes.parts_of_characters(range(tokenizer.vocab_size))

    def end_whole(self, ids: Sequence[int]) -> bool:
        """The last of `ids` completes a character, or nothing will."""
        if not ids or ids[-1] not in self._open:
            return True
        return not self._is_open(ids) or (
            len(ids) >= _MOST_HELD_TOKENS
            and all(self._is_open(ids[:end]) for end in range(len(ids) - _MOST_HELD_TOKENS + 1, len(ids)))
        )

    def any_text(self, ids: Sequence[int]) -> bool:
        """One of `ids` is no special token: text begins with it, and what follows is the middle of a text."""
        return any(token not in self._silent for token in ids)

    def _is_open(self, ids: Sequence[int]) -> bool:
        return self._bytes.ends_inside_character(ids[-_MOST_HELD_TOKENS:], silent=self._silent)
