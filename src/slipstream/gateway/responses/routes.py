"""The endpoints of the Responses API."""

from __future__ import annotations

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import Response

from slipstream.gateway.exchange import exchange_of
from slipstream.gateway.live_response import JSON_HEADERS
from slipstream.gateway.responses.answers import server_sent
from slipstream.gateway.responses.requests import ResponsesRequest
from slipstream.gateway.responses.respond import found_for, not_found, respond, stored_for
from slipstream.gateway.responses.socket import serve_socket
from slipstream.gateway.services import Services

PATH = "/v1/responses"


def add_responses(app: FastAPI, services: Services) -> None:
    """Serve `/v1/responses`, over HTTP and as a WebSocket, and what it has stored."""
    memory = services.responses
    memory.spec = services.spec.responses

    @app.post(PATH)
    async def create_response(request: ResponsesRequest, connection: Request) -> Response:
        exchange = exchange_of(connection)
        find, store = found_for(memory, exchange), stored_for(memory, exchange, request)
        return await respond(request, exchange, connection.headers, services, find=find, store=store, frame=server_sent)

    @app.get(f"{PATH}/{{response_id}}")
    async def get_response(response_id: str, connection: Request) -> Response:
        stored = memory.get(exchange_of(connection).caller.id, response_id)
        if stored is None:
            raise not_found(response_id, 404)
        return Response(stored.body, headers=JSON_HEADERS)

    @app.delete(f"{PATH}/{{response_id}}")
    async def delete_response(response_id: str, connection: Request) -> dict[str, object]:
        if not memory.remove(exchange_of(connection).caller.id, response_id):
            raise not_found(response_id, 404)
        return {"id": response_id, "object": "response", "deleted": True}

    @app.websocket(PATH)
    async def socket(connection: WebSocket) -> None:
        await serve_socket(connection, services, memory)
