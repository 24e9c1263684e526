"""Embeddings that are kept."""

from __future__ import annotations

from pydantic import Field

from slipstream.spec.groups import Group


class EmbeddingCacheSpec(Group):
    """The cache of embeddings, in the memory of each gateway process."""

    ttl_s: float = Field(86_400, ge=1, le=30 * 86_400, description="an embedding is kept so long")
    max_bytes: int = Field(64 << 20, ge=1 << 16, le=1 << 40, description="of all of them; the oldest goes first")
    shared: bool = Field(default=False, description="whether callers see each other's embeddings")
