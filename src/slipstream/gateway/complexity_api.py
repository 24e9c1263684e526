"""Why a request would go to which model, without generating anything."""

from __future__ import annotations

from fastapi import FastAPI, Request

from slipstream.gateway.complexity import LARGE_FROM, MEDIUM_FROM, judge
from slipstream.gateway.errors import ApiError
from slipstream.gateway.model_choice import ask_of, budget_of, decide
from slipstream.gateway.openai.chat import ChatRequest
from slipstream.gateway.services import Services


def add_complexity(app: FastAPI, services: Services) -> None:
    """`POST /complexity`: the body of a chat request in, every term of its score out."""

    @app.post("/complexity")
    async def complexity(request: ChatRequest, connection: Request) -> dict[str, object]:
        spec = services.spec.complexity
        if spec is None:
            raise ApiError(404, "complexity: this gateway does not choose models; gateway.complexity is not set")
        verdict = judge(ask_of(request, budget_of(connection.headers)))
        return {
            "class": verdict.size,
            "score": verdict.score,
            "terms": [{"name": term.name, "points": term.points} for term in verdict.terms],
            "medium_from": MEDIUM_FROM,
            "large_from": LARGE_FROM,
            "model": decide(connection.headers, request, services, spec).model.name,
        }


def auto_models(services: Services) -> list[dict[str, object]]:
    """The name that stands for three models, as `/v1/models` lists it; none where the caller may use none of them."""
    spec, served = services.spec.complexity, services.models.all()
    behind = [] if spec is None else [model for model in served if model.name in {spec.small, spec.medium, spec.large}]
    if spec is None or not behind:
        return []
    return [
        {
            "id": spec.name,
            "object": "model",
            "created": max(model.created for model in behind),
            "owned_by": "slipstream",
            "max_model_len": max(model.context_tokens for model in behind),
        }
    ]
