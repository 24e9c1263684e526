"""What a reader of free text took from it: facts with the words they came from, assumptions, contradictions."""

from __future__ import annotations

from dataclasses import dataclass, field

_MAX_TEXT = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One value and the words that said it."""

    field: str
    value: str
    words: str


@dataclass(frozen=True, slots=True)
class Understanding:
    """Grows while the three texts are read."""

    facts: list[Fact] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)

    def took(self, name: str, value: object, words: str) -> None:
        """Note a fact."""
        self.facts.append(Fact(field=name, value=str(value), words=" ".join(words.split())))

    def assumed(self, text: str) -> None:
        """Note an assumption."""
        self.assumptions.append(text)

    def resolved(self, text: str) -> None:
        """Note a contradiction and how it was resolved."""
        self.contradictions.append(text)


def quantity(text: str) -> float:
    """`20k`, `1,500`, `8K` and `2.5` as numbers; k is 1,000 here."""
    text = text.strip().lower().replace(",", "")
    return float(text[:-1]) * 1000 if text.endswith("k") else float(text)


def clipped(text: str) -> str:
    """The text without line breaks, and no longer than a person would write."""
    return " ".join(text.split())[:_MAX_TEXT]
