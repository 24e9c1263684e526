"""`/v1/embeddings`."""

from __future__ import annotations

import base64
from array import array
from typing import Annotated, Literal

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from slipstream.gateway.caching.responses import cache_orders
from slipstream.gateway.embeddings.embedder import Embedder, Embedding, Passage
from slipstream.gateway.errors import ApiError, unsupported
from slipstream.gateway.exchange import Exchange, exchange_of
from slipstream.gateway.live_response import JSON_HEADERS
from slipstream.gateway.openai.requests import Text
from slipstream.gateway.services import Services

_MOST_PASSAGES = 2048  # OpenAI's limit
_TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class EmbeddingsRequest(BaseModel):
    """The body of `/v1/embeddings`."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=256)
    input: Text | list[Text] | list[_TokenId] | list[list[_TokenId]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, le=2**20)
    user: str | None = Field(None, max_length=512)

    def passages(self) -> list[Passage]:
        """What to embed, each by itself; `ApiError` where there is nothing, or too much."""
        given = self.input
        if isinstance(given, str):
            passages: list[Passage] = [given]
        elif given and isinstance(given[0], int):
            passages = [tuple(one for one in given if isinstance(one, int))]
        else:
            passages = [one if isinstance(one, str) else tuple(one) for one in given if not isinstance(one, int)]
        if not passages or not all(passages):
            raise ApiError(400, "input: is empty, or has an empty part", param="input")
        if len(passages) > _MOST_PASSAGES:
            raise ApiError(400, f"input: {len(passages)} parts, the limit is {_MOST_PASSAGES}", param="input")
        return passages


def add_embeddings(app: FastAPI, services: Services) -> None:
    """Serve `/v1/embeddings`."""

    @app.post("/v1/embeddings")
    async def embeddings(request: EmbeddingsRequest, connection: Request) -> Response:
        exchange = exchange_of(connection)
        embedder = _embedder(request, exchange, services)
        made = await _embed(request, embedder, exchange, services)
        tokens = sum(one.tokens for one in made)
        body = {
            "object": "list",
            "model": request.model,
            "data": [
                {"object": "embedding", "index": index, "embedding": _encoded(one, request.encoding_format)}
                for index, one in enumerate(made)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return Response(orjson.dumps(body), headers=JSON_HEADERS | exchange.headers)


def _embedder(request: EmbeddingsRequest, exchange: Exchange, services: Services) -> Embedder:
    embedder = services.embedders.get(request.model)
    if embedder is None or not exchange.caller.may_use(request.model):
        model = services.models[request.model]  # says what there is, where there is none
        raise ApiError(
            501,
            f"model: {model.name} writes text, it makes no embeddings",
            param="model",
            code="embeddings_not_supported",
        )
    if request.dimensions not in {None, embedder.dimensions}:
        raise unsupported("dimensions", request.dimensions, f"the model's vectors have {embedder.dimensions}")
    return embedder


async def _embed(
    request: EmbeddingsRequest, embedder: Embedder, exchange: Exchange, services: Services
) -> list[Embedding]:
    passages, cache, orders = request.passages(), services.embedding_cache, cache_orders(exchange.cache_control)
    exchange.model = request.model
    if cache is None:
        return await embedder.embed(passages)
    if embedder.digest is None or "no-store" in orders:
        exchange.headers["x-cache"] = exchange.record.cache = "bypass"
        return await embedder.embed(passages)
    is_fresh = "no-cache" in orders
    made, is_kept = await cache.embed(
        request.model, embedder, passages, caller_id=exchange.caller.id, is_fresh=is_fresh
    )
    exchange.headers["x-cache"] = exchange.record.cache = "bypass" if is_fresh else "hit" if is_kept else "miss"
    return made


def _encoded(embedding: Embedding, form: Literal["float", "base64"]) -> str | tuple[float, ...]:
    if form == "float":
        return embedding.vector
    return base64.b64encode(array("f", embedding.vector).tobytes()).decode()
