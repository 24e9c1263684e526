"""`/health/live`: the event loop turns. `/health/ready`: a token came out, on the way that every request takes."""

from __future__ import annotations

import asyncio
from typing import Annotated

import orjson
from fastapi import FastAPI, Query
from starlette.responses import Response

from slipstream.gateway.errors import ApiError
from slipstream.gateway.generation import Generation, Wanted
from slipstream.gateway.live_response import JSON_HEADERS
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.services import Services

_PROBE_TIMEOUT_S = 20.0


def add_health(app: FastAPI, services: Services) -> None:
    """Both endpoints; they need no key, and name no model that the asker does not know."""

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready")
    async def ready(model: Annotated[str | None, Query(max_length=256)] = None) -> Response:
        return await _readiness_of(services, model)


async def _readiness_of(services: Services, name: str | None) -> Response:
    """200 where the model called `name` gives tokens, or any model if none is named; 503 where not, or when leaving."""
    if services.lifecycle.phase != "serving":
        return _status(503, services.lifecycle.phase)
    models = [model for model in services.models.every() if name in {None, model.name}]
    found = await asyncio.gather(*(services.readiness.is_ready(model, _gives_a_token) for model in models))
    return _status(200, "ready") if any(found) else _status(503, "no token comes out")


async def _gives_a_token(model: ServedModel) -> bool:
    [first, *_] = model.tokenizer.encode("Hello")
    wanted = Wanted(prompt_ids=(first,), max_tokens=1, ignores_end=True)
    generation = Generation(model, wanted, deadline_s=_PROBE_TIMEOUT_S)
    try:
        async for _ in generation.deltas():
            pass
    except ApiError:
        return False
    return generation.output_tokens > 0


def _status(status: int, text: str) -> Response:
    return Response(orjson.dumps({"status": text}), status_code=status, headers=JSON_HEADERS)
