"""OpenAI's two APIs of completions."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response

from slipstream.gateway.exchange import exchange_of
from slipstream.gateway.model_choice import choose_model
from slipstream.gateway.off_loop import off_loop
from slipstream.gateway.openai.chat import ChatRequest
from slipstream.gateway.openai.chat_answer import ChatAnswer
from slipstream.gateway.openai.completions import CompletionAnswer, CompletionRequest
from slipstream.gateway.services import Services
from slipstream.gateway.serving import answer_request
from slipstream.gateway.tools.forms import tool_form


def add_completions(app: FastAPI, services: Services) -> None:
    """Serve `/v1/chat/completions` and `/v1/completions`."""

    @app.post("/v1/chat/completions")
    async def chat_completions(request: ChatRequest, connection: Request) -> Response:
        exchange = exchange_of(connection)
        model = await off_loop(exchange, lambda: choose_model(exchange, connection.headers, request, services))
        form = tool_form(services.spec.tool_parser, model.template)
        answer = ChatAnswer(model, request, request.reading(form))
        wanted = await off_loop(exchange, lambda: request.wanted(model, form))
        return await answer_request(exchange, request, [wanted], answer, services)

    @app.post("/v1/completions")
    async def completions(request: CompletionRequest, connection: Request) -> Response:
        exchange = exchange_of(connection)
        model = await off_loop(exchange, lambda: choose_model(exchange, connection.headers, request, services))
        wanted = await off_loop(exchange, lambda: request.wanted(model))
        answer = CompletionAnswer(model, request, wanted)
        return await answer_request(exchange, request, wanted, answer, services)
