"""The HTTP application: OpenAI's endpoints over the models behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from slipstream.errors import SlipstreamError
from slipstream.gateway.answering import event_stream, whole_answer
from slipstream.gateway.body_limit import BodyLimit
from slipstream.gateway.errors import ApiError
from slipstream.gateway.generation import Generation, Wanted
from slipstream.gateway.live_response import EVENT_HEADERS, JSON_HEADERS, LiveResponse
from slipstream.gateway.openai.answers import Answer
from slipstream.gateway.openai.chat import ChatAnswer, ChatRequest
from slipstream.gateway.openai.completions import CompletionAnswer, CompletionRequest
from slipstream.gateway.openai.requests import GenerationFields
from slipstream.gateway.openai.tokens import DetokenizeRequest, TokenizeRequest
from slipstream.gateway.served_model import ServedModel
from slipstream.spec import GatewaySpec

_MOST_CHOICES = 128


class Models:
    """The models by name."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._by_name: Mapping[str, ServedModel] = {model.name: model for model in models}

    def __getitem__(self, name: str) -> ServedModel:
        """The model called `name`; `ApiError` names those there are."""
        if (model := self._by_name.get(name)) is None:
            known = ", ".join(self._by_name)
            raise ApiError(
                404, f"model: there is no {name!r} here; the models are {known}", param="model", code="model_not_found"
            )
        return model

    def all(self) -> list[ServedModel]:
        return list(self._by_name.values())


def create_app(served: Sequence[ServedModel], spec: GatewaySpec) -> FastAPI:
    """The application over `served`."""
    models = Models(served)
    app = FastAPI(title="Slipstream", openapi_url="/openapi.json", docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, limit_bytes=spec.max_body_bytes)
    _add_errors(app)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: ChatRequest) -> Response:
        model = models[request.model]
        answer = ChatAnswer(model, wants_log_probs=request.logprobs)
        return _answer(request, [request.wanted(model)], answer, spec)

    @app.post("/v1/completions")
    async def completions(request: CompletionRequest) -> Response:
        model = models[request.model]
        answer = CompletionAnswer(model, wants_log_probs=request.logprobs is not None)
        return _answer(request, request.wanted(model), answer, spec)

    @app.get("/v1/models")
    async def list_models() -> dict[str, object]:
        return {"object": "list", "data": [_as_json(model) for model in models.all()]}

    @app.get("/v1/models/{name:path}")
    async def get_model(name: str) -> dict[str, object]:
        return _as_json(models[name])

    @app.post("/tokenize")
    async def tokenize(request: TokenizeRequest) -> dict[str, object]:
        return request.answer(models[request.model])

    @app.post("/detokenize")
    async def detokenize(request: DetokenizeRequest) -> dict[str, object]:
        return request.answer(models[request.model])

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    return app


def _answer(request: GenerationFields, wanted: Sequence[Wanted], answer: Answer, spec: GatewaySpec) -> Response:
    """Run what is `wanted`, `n` times each."""
    each = request.n or 1
    if len(wanted) * each > _MOST_CHOICES:
        raise ApiError(400, f"n: {len(wanted)} prompts x {each}, the limit is {_MOST_CHOICES} choices", param="n")
    generations = [
        Generation(answer.model, one.numbered(number), deadline_s=spec.request_timeout_s)
        for one in wanted
        for number in range(each)
    ]
    if not request.stream:
        return LiveResponse(whole_answer(generations, answer), JSON_HEADERS)
    include_usage = request.stream_options is not None and request.stream_options.include_usage
    return LiveResponse(event_stream(generations, answer, include_usage=include_usage), EVENT_HEADERS)


def _as_json(model: ServedModel) -> dict[str, object]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "slipstream",
        "max_model_len": model.context_tokens,
    }


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
