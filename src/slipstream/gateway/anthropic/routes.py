"""Anthropic's endpoints."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response

from slipstream.gateway.anthropic.answers import MessagesAnswer
from slipstream.gateway.anthropic.errors import PATH
from slipstream.gateway.anthropic.requests import CountRequest, MessagesRequest
from slipstream.gateway.exchange import exchange_of
from slipstream.gateway.model_choice import choose_model
from slipstream.gateway.services import Services
from slipstream.gateway.serving import answer_request
from slipstream.gateway.tools.forms import tool_form


def add_messages(app: FastAPI, services: Services) -> None:
    """Serve `/v1/messages` and its counting of tokens."""

    @app.post(PATH)
    async def messages(request: MessagesRequest, connection: Request) -> Response:
        chat = request.as_chat()
        model = choose_model(connection, chat, services)
        form = tool_form(services.spec.tool_parser, model.template)
        wanted = chat.wanted(model, form)
        answer = MessagesAnswer(model, chat.reading(form), input_tokens=len(wanted.prompt_ids))
        return await answer_request(exchange_of(connection), chat, [wanted], answer, services)

    @app.post(f"{PATH}/count_tokens")
    async def count_tokens(request: CountRequest) -> dict[str, int]:
        model = services.models[request.model]
        talk = request.as_chat().conversation(model, tool_form(services.spec.tool_parser, model.template))
        return {"input_tokens": len(model.encode_chat(talk.messages, talk.tools))}
