"""The HTTP application: OpenAI's endpoints over the models behind it."""

from __future__ import annotations

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from slipstream.errors import SlipstreamError
from slipstream.gateway.anthropic.errors import AnthropicErrors
from slipstream.gateway.anthropic.routes import add_messages
from slipstream.gateway.complexity_api import add_complexity, auto_models
from slipstream.gateway.compression import Compression
from slipstream.gateway.embeddings.api import add_embeddings
from slipstream.gateway.errors import ApiError
from slipstream.gateway.exchange import exchange_of
from slipstream.gateway.health import add_health
from slipstream.gateway.live_response import JSON_HEADERS
from slipstream.gateway.observability.endpoint import add_metrics_page
from slipstream.gateway.off_loop import off_loop
from slipstream.gateway.openai.routes import add_completions
from slipstream.gateway.openai.tokens import DetokenizeRequest, TokenizeRequest
from slipstream.gateway.openapi import describe
from slipstream.gateway.playground import add_playground
from slipstream.gateway.responses.routes import add_responses
from slipstream.gateway.routing.telemetry import count_routing
from slipstream.gateway.security import guard
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.services import Models, Services


def create_app(services: Services) -> FastAPI:
    """The application over the models of `services`."""
    spec = services.spec
    app = FastAPI(title="Slipstream", openapi_url="/openapi.json", docs_url=None, redoc_url=None)
    guard(app, services.security, spec, services.metrics)
    app.add_middleware(AnthropicErrors)  # outside of the guards: their refusals pass through it
    if spec.compress_min_bytes is not None:
        app.add_middleware(Compression, min_bytes=spec.compress_min_bytes)
    _add_errors(app)
    add_completions(app, services)
    add_messages(app, services)
    _add_models(app, services)
    add_responses(app, services)
    add_embeddings(app, services)
    _add_tokens(app, services.models)
    _add_operations(app, services)
    add_complexity(app, services)
    describe(app)
    if spec.playground:
        add_playground(app)
    return app


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
    async def tokenize(request: TokenizeRequest, connection: Request) -> dict[str, object]:
        model = models[request.model]
        return await off_loop(exchange_of(connection), lambda: request.answer(model))

    @app.post("/detokenize")
    async def detokenize(request: DetokenizeRequest, connection: Request) -> dict[str, object]:
        model = models[request.model]
        return await off_loop(exchange_of(connection), lambda: request.answer(model))


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
    async def refused(request: Request, error: ApiError) -> Response:
        exchange_of(request).record.error_code = error.code or ""
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
