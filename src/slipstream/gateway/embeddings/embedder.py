"""What makes embeddings: the place where a deployment of an embedding model is plugged in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Passage = str | tuple[int, ...]  # a text, or token ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """One passage as a vector."""

    vector: tuple[float, ...]
    tokens: int  # of the passage


class Embedder(Protocol):
    """An embedding model; `Services.embedders` has them by name."""

    @property
    def dimensions(self) -> int:
        """Length of its vectors."""

    @property
    def digest(self) -> str | None:
        """Over everything that decides its vectors; without it they are not kept."""

    async def embed(self, passages: Sequence[Passage]) -> list[Embedding]:
        """The embeddings of `passages` in their order; `ApiError` for one that cannot be embedded."""
