"""The way back to the client of one request to the LLM API model."""

from __future__ import annotations

from typing import Any

import numpy as np

from slipstream.backend.llmapi_request import LlmApiRequest
from slipstream.backend.llmapi_response import LlmApiPiece, response_tensors
from slipstream.backend.triton import ResponseSender, error_response, response


class LlmApiReply:
    """Triton's response sender, in the words of the engine."""

    def __init__(self, request: Any) -> None:
        self._sender = ResponseSender(request)
        self._requested = frozenset(request.requested_output_names())

    def send(self, request: LlmApiRequest, piece: LlmApiPiece, completion: Any | None) -> None:
        """Send one response; the final flag travels with the last one."""
        tensors = response(response_tensors(request, piece, completion, self._requested))
        if piece.is_last:
            self._sender.end(tensors)
        else:
            self._sender.send(tensors)

    def refuse(self, message: str) -> None:
        """End the request: it cannot be served as it is."""
        self._sender.end(error_response(message))

    def fail(self, message: str) -> None:
        """End the request: the server could not serve it."""
        self._sender.end(error_response(message, is_clients_fault=False))

    def is_cancelled(self) -> bool:
        """The client has gone away."""
        return self._sender.is_cancelled()

    def close(self, *, decoupled: bool) -> None:
        """Answer a `stop` request: nothing but the final flag, where a model may answer with nothing."""
        self._sender.end(None if decoupled else response({"text_output": np.array([b""], np.object_)}))
