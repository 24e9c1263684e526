"""A multiple-choice task made from plain text: which of four sentences goes on from here?

The context is some sentences of a paragraph and the answer the next one. The three others are next sentences of other
paragraphs, the nearest in length of a random draw, so that length gives nothing away.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.errors import SlipstreamError

OPTIONS = 4
CHANCE = 1 / OPTIONS
CONTEXT_SENTENCES = 2
_DRAWN = 48  # from which the nearest in length are taken
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)\]\"”][.!?])\s+(?=[A-Z\"“])")
_SHORTEST, _LONGEST = 30, 240  # characters of a sentence that is a context's part or an option


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceItem:
    """One question."""

    context: str
    options: tuple[str, ...]
    answer: int  # index of the true continuation


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passage:
    paragraph: int
    context: str
    continuation: str


def build_items(text: str, count: int, *, seed: int = 0) -> list[ChoiceItem]:
    """`count` questions from `text`, whose paragraphs are its lines; no two share a sentence.

    The same text, count and seed give the same questions.
    """
    draw = random.Random(seed)  # noqa: S311 - reproducible, not secret
    passages = _passages(text)
    if len(passages) < max(count, OPTIONS):
        raise SlipstreamError(
            f"multiple choice: {count} questions were asked for, the text has {len(passages)} fitting passages",
            mend="ask for fewer, or give a longer text",
        )
    chosen = draw.sample(passages, count)
    return [_item(passage, passages, draw) for passage in chosen]


def _passages(text: str) -> list[_Passage]:
    found = []
    for number, paragraph in enumerate(text.splitlines()):
        sentences = _SENTENCE_END.split(paragraph.strip())
        start = 0
        while start + CONTEXT_SENTENCES < len(sentences):
            stop = start + CONTEXT_SENTENCES
            if _fits(sentences[start : stop + 1]):
                context = " ".join(sentences[start:stop])
                found.append(_Passage(paragraph=number, context=context, continuation=f" {sentences[stop]}"))
                start = stop  # so that no two share a sentence
            start += 1
    return found


def _fits(sentences: Sequence[str]) -> bool:
    return all(_SHORTEST <= len(sentence) <= _LONGEST for sentence in sentences)


def _item(passage: _Passage, passages: Sequence[_Passage], draw: random.Random) -> ChoiceItem:
    others = [
        other.continuation
        for other in draw.sample(passages, min(_DRAWN, len(passages)))
        if other.paragraph != passage.paragraph and other.continuation != passage.continuation
    ]
    length = len(passage.continuation)
    nearest = sorted(dict.fromkeys(others), key=lambda option: abs(len(option) - length))[: OPTIONS - 1]
    options = [passage.continuation, *nearest]
    draw.shuffle(options)
    return ChoiceItem(context=passage.context, options=tuple(options), answer=options.index(passage.continuation))
