"""The caches that the settings ask for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack

from slipstream.gateway.caching.responses import ResponseCache
from slipstream.gateway.caching.stores import MemoryValues, RedisValues
from slipstream.gateway.embeddings.cache import EmbeddingCache
from slipstream.gateway.limits.open_store import redis_url
from slipstream.gateway.limits.redis_store import connect
from slipstream.gateway.observability.metrics import Metrics
from slipstream.spec import GatewaySpec


def open_cache(
    spec: GatewaySpec,
    environ: Mapping[str, str],
    metrics: Metrics,
    stack: AsyncExitStack,
    before: ResponseCache | None = None,
) -> ResponseCache | None:
    """The cache of answers, held until `stack` ends; one in memory goes on where its settings are those of `before`."""
    cache, limits = spec.cache, spec.limits
    if cache is None:
        return None
    if cache.store == "memory":
        if before is not None and before.spec == cache:
            return before
        return ResponseCache(cache, MemoryValues(max_bytes=cache.max_bytes, ttl_s=cache.ttl_s), metrics)
    client = connect(redis_url(limits, environ), timeout_s=limits.store_timeout_s)
    store = RedisValues(client, prefix=f"{limits.redis_prefix}:answers", ttl_s=cache.ttl_s)
    stack.push_async_callback(store.close)
    return ResponseCache(cache, store, metrics)


def open_embedding_cache(
    spec: GatewaySpec, metrics: Metrics, before: EmbeddingCache | None = None
) -> EmbeddingCache | None:
    """The cache of embeddings; it goes on where its settings are those of `before`."""
    cache = spec.embedding_cache
    if cache is None:
        return None
    if before is not None and before.spec == cache:
        return before
    return EmbeddingCache(cache, MemoryValues(max_bytes=cache.max_bytes, ttl_s=cache.ttl_s), metrics)
