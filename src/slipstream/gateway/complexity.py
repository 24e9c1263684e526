"""How large a model a request needs: a sum of points, each of which can be shown.

Nothing is learnt and nothing is asked of a model: the same request always has the same score, and the terms say why.
What the points are worth is measured on labelled prompts, see docs/gateway-complexity.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from slipstream.gateway.complexity_markers import MANY_STEPS, ONE_PAGE, ONE_STEP, Marker

Size = Literal["small", "medium", "large"]
Budget = Literal["low", "normal", "high"]

SIZES: tuple[Size, ...] = ("small", "medium", "large")
MEDIUM_FROM, LARGE_FROM = 2, 7  # points
_BUDGET_POINTS: dict[Budget, int] = {"low": -2, "normal": 0, "high": 2}

_EDGE_CHARS = 800  # of a long message, where the instruction is: the rest is material
_MATERIAL = re.compile(r"```.*?(?:```|\Z)|\"[^\"]*\"|“[^”]*”|„[^“”]*[“”]|«[^»]*»|「[^」]*」", re.DOTALL)
_WIDE = re.compile(
    r"[\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
)  # one of them says what two or three letters do
_SEPARATOR = re.compile(r"[,;:](?=\s)|[、，；：،؛]|\b(?:and|und|et|y|e|и|ve|och|en|i)\b")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE_END = re.compile(r"[.?!](?=\s|$)|[。？！؟।]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is looked at of a request, whatever API it came by."""

    task: str  # what the user said last
    context_chars: int = 0  # of everything before it: system text, earlier turns, documents
    user_turns: int = 1
    tools: int = 0
    has_schema: bool = False
    max_tokens: int | None = None
    budget: Budget = "normal"


@dataclass(frozen=True, slots=True)
class Term:
    """One reason, and what it adds."""

    name: str
    points: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The size of model that is enough, and why."""

    terms: tuple[Term, ...]

    @property
    def score(self) -> int:
        return sum(term.points for term in self.terms)

    @property
    def size(self) -> Size:
        if self.score >= LARGE_FROM:
            return "large"
        return "medium" if self.score >= MEDIUM_FROM else "small"

    @property
    def reason(self) -> str:
        """The sum in one line of ASCII without any text of the request; fit for a header."""
        return " ".join([f"{term.name.replace(' ', '-')}{term.points:+d}" for term in self.terms] + [f"={self.score}"])


def judge(ask: Ask) -> Verdict:
    """The size of model that `ask` needs."""
    task = ask.task
    if len(task) > 2 * _EDGE_CHARS:
        task = f"{task[:_EDGE_CHARS]}\n{task[-_EDGE_CHARS:]}"
    instruction = _MATERIAL.sub(" ", task)
    if not instruction.strip():  # nothing but a quotation
        instruction = task
    material_chars = ask.context_chars + len(ask.task) - len(instruction)
    terms = [*_terms_of_text(instruction), *_terms_of_request(ask, material_chars)]
    if "```" in task:
        terms.append(Term("code shown", 3))
    return Verdict(tuple(term for term in terms if term.points))


def _terms_of_text(instruction: str) -> list[Term]:
    lower = instruction.lower()
    letters = len(instruction.strip()) + 2 * len(_WIDE.findall(instruction))
    words = [*_found(MANY_STEPS, lower), *_found(ONE_PAGE, lower)[:1], *_found(ONE_STEP, lower)]
    return [
        Term("length", _step(letters, (120, 220, 350))),
        Term("requirements", _step(len(_SEPARATOR.findall(instruction)), (2, 4, 6))),
        Term("sentences", _step(len(_SENTENCE_END.findall(instruction)), (3, 5))),
        Term("numbers", _step(len(_NUMBER.findall(instruction)), (3, 5))),
        # Of a kind of work that is not known, the more is said the more it may be: too large is the lesser harm.
        *(words or [Term("unknown work", 2 * _step(letters, (60, 120, 180)))]),
    ]


def _found(markers: Sequence[Marker], text: str) -> list[Term]:
    return [Term(marker.name, marker.points) for marker in markers if marker.words.search(text)]


def _terms_of_request(ask: Ask, material_chars: int) -> list[Term]:
    return [
        Term("material", _step(material_chars, (200, 2000, 20_000, 30_000, 50_000))),
        Term("turns", _step(ask.user_turns, (2, 3, 5))),
        Term("tools", _step(ask.tools, (2, 3, 4, 5, 6))),
        Term("schema", 1 if ask.has_schema else 0),
        Term("long answer", _step(ask.max_tokens or 0, (6000, 12_000))),
        Term("short answer", -2 if ask.max_tokens is not None and ask.max_tokens <= 32 else 0),
        Term("budget", _BUDGET_POINTS[ask.budget]),
    ]


def _step(value: int, limits: Sequence[int]) -> int:
    """A point for every limit that is reached."""
    return sum(1 for _ in takewhile(lambda limit: value >= limit, limits))
