"""Whole answers, kept for requests that can only be answered one way.

A request is one that is greedy, or that names a seed and asks an engine whose draws do not depend on what else runs.
What is kept are the pieces of one choice as the engine brought them, so that a stream and a whole answer, whatever API
asked, are made from it as they were made the first time. Only a choice that came to its end is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

import orjson
from pydantic import TypeAdapter, ValidationError

from slipstream.gateway.caching.stores import ValueStore
from slipstream.gateway.exchange import Exchange
from slipstream.gateway.generation import Delta, Generation, Wanted
from slipstream.gateway.observability import families
from slipstream.gateway.observability.metrics import Metrics
from slipstream.gateway.openai.requests import GenerationFields
from slipstream.gateway.served_model import ServedModel
from slipstream.spec import CacheSpec

CACHE_HEADER = "x-cache"
Result = Literal["hit", "miss", "bypass"]
_FORMAT = 1  # of keys and values; another one is another cache
_NAME = "response"  # in metrics


@dataclass(frozen=True, slots=True)
class Kept:
    """One choice that came to its end."""

    deltas: tuple[Delta, ...]
    output_tokens: int


_KEPT = TypeAdapter(Kept)


class ResponseCache:
    """Puts what it knows in the place of the engine, and keeps what the engine brings."""

    def __init__(self, spec: CacheSpec, store: ValueStore, metrics: Metrics) -> None:
        self.spec = spec
        self.store = store
        self._metrics = metrics

    async def look_up(
        self, exchange: Exchange, request: GenerationFields, generations: Sequence[Generation], model: ServedModel
    ) -> None:
        """Let `generations` come from the cache where it has them, and be kept where it may have them."""
        orders = cache_orders(exchange.cache_control)
        result: Result = "bypass"
        if "no-store" not in orders and all(is_repeatable(one.wanted, request, model) for one in generations):
            scope = None if self.spec.shared else exchange.caller.id
            keys = [key_of(one.wanted, model, scope=scope) for one in generations]
            found = [None] * len(keys) if "no-cache" in orders else await self._kept(keys)
            for generation, key, kept in zip(generations, keys, found, strict=True):
                self._place(generation, key, kept)
            if "no-cache" not in orders:
                result = "miss" if None in found else "hit"
        exchange.headers[CACHE_HEADER] = exchange.record.cache = result
        self._metrics.count(families.CACHE, _NAME, result)

    async def _kept(self, keys: Sequence[str]) -> list[Kept | None]:
        return [None if value is None else _read(value) for value in await self.store.get(keys)]

    def _place(self, generation: Generation, key: str, kept: Kept | None) -> None:
        if kept is None:
            generation.source = lambda: self._recorded(generation, key)
        else:
            generation.needs_engine = False
            generation.times.has_ended = True  # nothing waits for an engine
            generation.source = lambda: _replayed(generation, kept)

    async def _recorded(self, generation: Generation, key: str) -> AsyncGenerator[Delta]:
        deltas: list[Delta] = []
        characters = 0
        async with aclosing(generation.generate()) as source:
            async for delta in source:
                characters += len(delta.text)
                if characters <= self.spec.max_answer_bytes:  # beyond, it is not kept in any case
                    deltas.append(delta)
                yield delta
        # A failure, or a client that left, does not come here.
        if characters <= self.spec.max_answer_bytes and deltas and deltas[-1].finish is not None:
            self._keep(key, Kept(tuple(deltas), generation.output_tokens))

    def _keep(self, key: str, kept: Kept) -> None:
        value = orjson.dumps(kept)
        if len(value) <= self.spec.max_answer_bytes:
            self.store.put(key, value)
            self._metrics.count(families.CACHE_STORES, _NAME)
            self._metrics.set(families.CACHE_BYTES, self.store.held_bytes, _NAME)


def is_repeatable(wanted: Wanted, request: GenerationFields, model: ServedModel) -> bool:
    """Whether another answer to the same request would be no better than the first."""
    if model.digest is None:  # another engine could stand behind the same name tomorrow
        return False
    if request.seed is not None and model.is_deterministic:
        return True
    return wanted.sampling.top_k == 1 and wanted.sampling.seed is None


def key_of(wanted: Wanted, model: ServedModel, *, scope: str | None) -> str:
    """Everything that changes an answer, and who may see it; none: everybody."""
    everything = [_FORMAT, scope, model.name, model.digest, wanted]
    return hashlib.sha256(orjson.dumps(everything, option=orjson.OPT_NON_STR_KEYS)).hexdigest()


async def _replayed(generation: Generation, kept: Kept) -> AsyncGenerator[Delta]:
    for delta in kept.deltas:
        generation.output_tokens += delta.tokens
        yield delta
    generation.times.finish = kept.deltas[-1].finish or ""
    generation.output_tokens = kept.output_tokens  # with the tokens that end a text and show none


def _read(value: bytes) -> Kept | None:
    try:
        return _KEPT.validate_json(value)
    except ValidationError:  # of another version, or damaged
        return None


def cache_orders(cache_control: str) -> frozenset[str]:
    """What a request's `cache-control` says."""
    return frozenset(order.strip().lower() for order in cache_control.split(",")) if cache_control else frozenset()
