"""Embeddings that are kept: a passage has one vector in one model."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

import orjson

from slipstream.gateway.caching.stores import ValueStore
from slipstream.gateway.embeddings.embedder import Embedder, Embedding, Passage
from slipstream.gateway.observability import families
from slipstream.gateway.observability.metrics import Metrics
from slipstream.spec import EmbeddingCacheSpec

_NAME = "embedding"  # in metrics
_FORMAT = 1


class EmbeddingCache:
    """Asks an embedder for what it does not have; vectors are kept in float32, in which they are sent."""

    def __init__(self, spec: EmbeddingCacheSpec, store: ValueStore, metrics: Metrics) -> None:
        self.spec = spec
        self._store = store
        self._metrics = metrics

    async def embed(
        self, name: str, embedder: Embedder, passages: Sequence[Passage], *, caller_id: str, is_fresh: bool
    ) -> tuple[list[Embedding], bool]:
        """The embeddings, and whether all were kept ones; with `is_fresh` none is."""
        scope = None if self.spec.shared else caller_id
        keys = [_key(name, embedder, passage, scope) for passage in passages]
        found = [None] * len(keys) if is_fresh else await self._store.get(keys)
        missing = {key: passage for key, passage, value in zip(keys, passages, found, strict=True) if value is None}
        known = {key: _read(value) for key, value in zip(keys, found, strict=True) if value is not None}
        made = await embedder.embed(list(missing.values())) if missing else []
        for key, embedding in zip(missing, made, strict=True):
            value = _written(embedding)
            known[key] = _read(value)  # in float32 the first time as well
            self._store.put(key, value)
        self._count(len(keys) - len(missing), len(missing))
        return [known[key] for key in keys], not missing

    def _count(self, hits: int, misses: int) -> None:
        for result, count in (("hit", hits), ("miss", misses)):
            if count:
                self._metrics.count(families.CACHE, _NAME, result, by=count)
        if misses:
            self._metrics.count(families.CACHE_STORES, _NAME, by=misses)
            self._metrics.set(families.CACHE_BYTES, self._store.held_bytes, _NAME)


def _key(name: str, embedder: Embedder, passage: Passage, scope: str | None) -> str:
    return hashlib.sha256(orjson.dumps([_FORMAT, scope, name, embedder.digest, passage])).hexdigest()


def _written(embedding: Embedding) -> bytes:
    return embedding.tokens.to_bytes(4, "little") + array("f", embedding.vector).tobytes()


def _read(value: bytes) -> Embedding:
    return Embedding(vector=tuple(array("f", value[4:])), tokens=int.from_bytes(value[:4], "little"))
