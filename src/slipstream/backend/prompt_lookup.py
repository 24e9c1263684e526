"""Prompt lookup: what followed the same n-gram before is proposed again.

The pipeline has its own; this one follows it token for token (longest n-gram first, its first place in the text), to
count what was proposed, and to tell what speculation would have brought where there is none.
"""

from __future__ import annotations

from collections.abc import Iterable

from slipstream.backend.speculation import MAX_MATCHING_NGRAM_SIZE


class PromptLookup:
    """One text, and where each of its n-grams came first."""

    def __init__(self, prompt_ids: Iterable[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram → position behind it
        self.extend(prompt_ids)

    def extend(self, ids: Iterable[int]) -> None:
        """Add tokens at the end."""
        for token in ids:
            self._note_ngrams_at_end()
            self._ids.append(token)

    def propose(self, count: int) -> list[int]:
        """Up to `count` tokens that may come next."""
        for size in range(min(MAX_MATCHING_NGRAM_SIZE, len(self._ids) // 2), 0, -1):
            position = self._after.get(tuple(self._ids[-size:]))
            if position is not None:
                return self._ids[position : position + count]
        return []

    def _note_ngrams_at_end(self) -> None:
        """An n-gram counts once something follows it: the last one must not find itself."""
        for size in range(1, MAX_MATCHING_NGRAM_SIZE + 1):
            if size <= len(self._ids):
                self._after.setdefault(tuple(self._ids[-size:]), len(self._ids))


class LookupForecast:
    """Tokens a step that prompt lookup would have brought for one text that is written without it."""

    def __init__(self, prompt_ids: Iterable[int], draft_len: int) -> None:
        self._lookup = PromptLookup(prompt_ids)
        self._draft_len = draft_len
        self._expected: list[int] | None = None  # none before the first token, which the prompt's step brings
        self._tokens_of_step = 0

    def push(self, ids: Iterable[int]) -> list[int]:
        """Add what was written; the tokens of each imagined step that ended with it."""
        steps = []
        for token in ids:
            self._lookup.extend((token,))
            self._tokens_of_step += 1
            if self._expected and self._expected[0] == token:
                del self._expected[0]
            else:
                # The step brought what had been accepted, and this token of the engine's own.
                if self._expected is not None:
                    steps.append(self._tokens_of_step)
                self._tokens_of_step = 0
                self._expected = self._lookup.propose(self._draft_len)
        return steps
