"""Which tokens may travel together: a response must not end inside a character.

Postprocessing in the ensemble decodes every response by itself, so tokens that hold the bytes of one character only
together are released together.
"""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
# Bytes that never become a character are let out after this many tokens; a character takes at most four.
_MOST_HELD_TOKENS = 16


class Characters:
    """Knows every token of one vocabulary; built once, at load."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._fast = tokenizer.fast
        alone = self._fast.decode_batch([[token] for token in range(tokenizer.vocab_size)], skip_special_tokens=False)
        self._broken_alone = frozenset(token for token, text in enumerate(alone) if _REPLACEMENT in text)

    def end_whole(self, ids: Sequence[int]) -> bool:
        """The last of `ids` completes a character, or nothing will."""
        start = len(ids)
        while start and ids[start - 1] in self._broken_alone:
            start -= 1
        open_run = ids[start:]
        if not open_run or len(open_run) >= _MOST_HELD_TOKENS:
            return True
        text: str = self._fast.decode(list(open_run), skip_special_tokens=False)
        return not text.endswith(_REPLACEMENT)
