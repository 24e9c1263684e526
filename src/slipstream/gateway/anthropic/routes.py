"""Anthropic's endpoints."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response

from slipstream.gateway.anthropic.answers import MessagesAnswer
from slipstream.gateway.anthropic.errors import PATH
from slipstream.gateway.anthropic.requests import CountRequest, MessagesRequest
from slipstream.gateway.exchange import exchange_of
from slipstream.gateway.model_choice import choose_model
from slipstream.gateway.off_loop import off_loop
from slipstream.gateway.services import Services
from slipstream.gateway.serving import answer_request
from slipstream.gateway.tools.forms import tool_form


def add_messages(app: FastAPI, services: Services) -> None:
    """Serve `/v1/messages` and its counting of tokens."""

    @app.post(PATH)
    async def messages(request: MessagesRequest, connection: Request) -> Response:
        chat = request.as_chat()
        exchange = exchange_of(connection)
        model = await off_loop(exchange, lambda: choose_model(exchange, connection.headers, chat, services))
        form = tool_form(services.spec.tool_parser, model.template)
        wanted = await off_loop(exchange, lambda: chat.wanted(model, form))
        answer = MessagesAnswer(model, chat.reading(form), input_tokens=len(wanted.prompt_ids))
        return await answer_request(exchange, chat, [wanted], answer, services)

    @app.post(f"{PATH}/count_tokens")
    async def count_tokens(request: CountRequest, connection: Request) -> dict[str, int]:
        model = services.models[request.model]
        talk = request.as_chat().conversation(model, tool_form(services.spec.tool_parser, model.template))
        ids = await off_loop(exchange_of(connection), lambda: model.encode_chat(talk.messages, talk.tools))
        return {"input_tokens": len(ids)}
