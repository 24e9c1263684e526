"""From a request for a response to its answer, over HTTP or a WebSocket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi.responses import Response

from slipstream.gateway.errors import ApiError
from slipstream.gateway.exchange import Exchange
from slipstream.gateway.model_choice import choose_model
from slipstream.gateway.off_loop import off_loop
from slipstream.gateway.responses.answers import Frame, ResponsesAnswer
from slipstream.gateway.responses.items import Item, as_messages
from slipstream.gateway.responses.memory import ResponseMemory, StoredResponse
from slipstream.gateway.responses.requests import ResponsesRequest
from slipstream.gateway.services import Services
from slipstream.gateway.serving import answer_request
from slipstream.gateway.tools.forms import tool_form

Find = Callable[[str], StoredResponse | None]
Store = Callable[[str, StoredResponse], None]


async def respond(
    request: ResponsesRequest,
    exchange: Exchange,
    headers: Mapping[str, str],
    services: Services,
    *,
    find: Find,
    store: Store,
    frame: Frame,
) -> Response:
    """The answer to `request`; `find` knows earlier responses by their ids, and `store` is given this one."""
    earlier = _earlier(request, find)
    chat = request.as_chat(earlier)
    model = choose_model(exchange, headers, chat, services)
    form = tool_form(services.spec.tool_parser, model.template)
    wanted = await off_loop(exchange, lambda: chat.wanted(model, form))

    def keep(response_id: str, body: bytes, items: list[dict[str, Any]]) -> None:
        answer = as_messages([Item.model_validate(item) for item in items])
        store(response_id, StoredResponse(body=body, messages=[*earlier, *request.messages(), *answer]))

    answer = ResponsesAnswer(model, request, chat.reading(form), frame=frame, keep=keep)
    return await answer_request(exchange, chat, [wanted], answer, services)


def stored_for(memory: ResponseMemory, exchange: Exchange, request: ResponsesRequest) -> Store:
    """Keeps responses of the caller, unless the request forbids it."""

    def store(response_id: str, stored: StoredResponse) -> None:
        if request.store is not False:
            memory.put(exchange.caller.id, response_id, stored)

    return store


def found_for(memory: ResponseMemory, exchange: Exchange) -> Find:
    """Finds what the caller has stored."""
    return lambda response_id: memory.get(exchange.caller.id, response_id)


def not_found(response_id: str, status: int) -> ApiError:
    """There is no such response, or it is another caller's, or its time is over."""
    return ApiError(
        status,
        f"previous_response_id: there is no response {response_id!r} (any more); send its conversation as input",
        param="previous_response_id",
        code="previous_response_not_found",
    )


def _earlier(request: ResponsesRequest, find: Find) -> list[dict[str, Any]]:
    if request.previous_response_id is None:
        return []
    stored = find(request.previous_response_id)
    if stored is None:
        raise not_found(request.previous_response_id, 400)
    return stored.messages
