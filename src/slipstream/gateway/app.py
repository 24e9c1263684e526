"""The HTTP application: OpenAI's endpoints over the models behind it."""

from __future__ import annotations

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from slipstream.errors import SlipstreamError
from slipstream.gateway.complexity_api import add_complexity, auto_models
from slipstream.gateway.errors import ApiError
from slipstream.gateway.exchange import exchange_of
from slipstream.gateway.health import add_health
from slipstream.gateway.live_response import JSON_HEADERS
from slipstream.gateway.model_choice import choose_model
from slipstream.gateway.observability.endpoint import add_metrics_page
from slipstream.gateway.openai.chat import ChatAnswer, ChatRequest
from slipstream.gateway.openai.completions import CompletionAnswer, CompletionRequest
from slipstream.gateway.openai.tokens import DetokenizeRequest, TokenizeRequest
from slipstream.gateway.playground import add_playground
from slipstream.gateway.routing.telemetry import count_routing
from slipstream.gateway.security import guard
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.services import Models, Services
from slipstream.gateway.serving import answer_request


def create_app(services: Services) -> FastAPI:
    """The application over the models of `services`."""
    spec = services.spec
    app = FastAPI(title="Slipstream", openapi_url="/openapi.json", docs_url=None, redoc_url=None)
    guard(app, services.security, spec)
    _add_errors(app)
    _add_generation(app, services)
    _add_models(app, services)
    _add_tokens(app, services.models)
    _add_operations(app, services)
    add_complexity(app, services)
    if spec.playground:
        add_playground(app)
    return app


def _add_generation(app: FastAPI, services: Services) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(request: ChatRequest, connection: Request) -> Response:
        model = choose_model(connection, request, services)
        answer = ChatAnswer(model, wants_log_probs=request.logprobs)
        return await answer_request(exchange_of(connection), request, [request.wanted(model)], answer, services)

    @app.post("/v1/completions")
    async def completions(request: CompletionRequest, connection: Request) -> Response:
        model = choose_model(connection, request, services)
        answer = CompletionAnswer(model, wants_log_probs=request.logprobs is not None)
        return await answer_request(exchange_of(connection), request, request.wanted(model), answer, services)


def _add_models(app: FastAPI, services: Services) -> None:
    models = services.models

    @app.get("/v1/models")
    async def list_models() -> dict[str, object]:
        return {"object": "list", "data": [_as_json(model) for model in models.all()] + auto_models(services)}

    @app.get("/v1/models/{name:path}")
    async def get_model(name: str) -> dict[str, object]:
        return next((auto for auto in auto_models(services) if auto["id"] == name), None) or _as_json(models[name])


def _add_tokens(app: FastAPI, models: Models) -> None:
    @app.post("/tokenize")
    async def tokenize(request: TokenizeRequest) -> dict[str, object]:
        return request.answer(models[request.model])

    @app.post("/detokenize")
    async def detokenize(request: DetokenizeRequest) -> dict[str, object]:
        return request.answer(models[request.model])


def _as_json(model: ServedModel) -> dict[str, object]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "slipstream",
        "max_model_len": model.context_tokens,
    }


def _add_operations(app: FastAPI, services: Services) -> None:
    """What those who run the gateway ask it."""
    add_metrics_page(app, services)
    add_health(app, services)
    count_routing(services.models.all(), services.metrics)


def _add_errors(app: FastAPI) -> None:
    """Every failure leaves as OpenAI's error object."""

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return _error(error)

    @app.exception_handler(SlipstreamError)
    async def not_understood(_: Request, error: SlipstreamError) -> Response:
        return _error(ApiError(400, error.message))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return _error(ApiError(400, f"{where or 'body'}: {first['msg']}", param=where or None, code=first["type"]))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return _error(ApiError(error.status_code, message, headers=error.headers))


def _error(error: ApiError) -> Response:
    headers = {**JSON_HEADERS, **error.headers}
    return Response(orjson.dumps(error.body()), status_code=error.status, headers=headers)
