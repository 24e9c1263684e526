"""Triton's Python backend API in the words of this package.

`triton_python_backend_utils` exists only inside Triton's stub process, so it is imported where it is used.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.presence import Presence, Presences, beat_tensors
from slipstream.backend.responses import response_tensors
from slipstream.backend.speculation import PARAMETER
from slipstream.backend.stream import Piece, Stream


def input_tensors(request: Any) -> dict[str, NDArray[Any]]:
    """All input tensors of a request, by name."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def request_parameter(request: Any, name: str) -> str | None:
    """The request's parameter `name` as text; none without it."""
    value = json.loads(request.parameters() or "{}").get(name)
    return None if value is None else str(value)


def response(tensors: Mapping[str, NDArray[Any]]) -> Any:
    """A response that holds `tensors`."""
    import triton_python_backend_utils as pb_utils

    return pb_utils.InferenceResponse([pb_utils.Tensor(name, tensor) for name, tensor in tensors.items()])


def error_response(message: str, *, is_clients_fault: bool = True) -> Any:
    """A response that holds an error."""
    import triton_python_backend_utils as pb_utils

    code = pb_utils.TritonError.INVALID_ARG if is_clients_fault else pb_utils.TritonError.UNAVAILABLE
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


class ResponseSender:
    """Triton's response sender, made safe to ask about cancellation from another thread.

    The server frees a request's response factory with the final response, and crashes when it is asked about the
    request after that. So the final response and the question exclude each other.
    """

    def __init__(self, request: Any) -> None:
        import triton_python_backend_utils as pb_utils

        self._sender = request.get_response_sender()
        self._final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        self._lock = threading.Lock()
        self._is_ended = False
        self._is_closed = False

    def send(self, response: Any) -> None:
        """Send one response that is not the last."""
        self._send(response, 0)

    def end(self, response: Any = None) -> None:
        """Send the last response, or the final flag alone; does nothing after the end."""
        with self._lock:
            if not self._is_ended:
                self._is_ended = True
                self._send(response, self._final)

    def is_cancelled(self) -> bool:
        """The client has gone away; asking costs a round trip to the server, about 20 us."""
        with self._lock:
            return not self._is_ended and (self._is_closed or bool(self._sender.is_cancelled()))

    def is_answered(self) -> bool:
        """A question about this request went to the server and came back; false when none can be asked any more."""
        with self._lock:
            # A request that is known to be cancelled is not asked about again, so that answer proves nothing.
            return not self._is_ended and not self._is_closed and not self._sender.is_cancelled()

    def _send(self, response: Any, flags: int) -> None:
        import triton_python_backend_utils as pb_utils

        try:
            if response is None:
                self._sender.send(flags=flags)
            else:
                self._sender.send(response, flags=flags)
        except pb_utils.TritonModelException as error:
            # Triton closes the sender of a request whose `execute` raised. Nobody listens: count it as cancelled.
            self._is_closed = True
            pb_utils.Logger.log_warn(f"a response could not be sent: {error}")


class TritonReply:
    """The way back to the client of one `tensorrt_llm` request, which may be several generations."""

    asks_server = True

    def __init__(self, request: Any) -> None:
        self._sender = ResponseSender(request)
        self._requested = frozenset(request.requested_output_names())
        self._generations_left = 1
        self._has_sent = False
        self._one_token: Any = None  # `sequence_length` of a response of one token, made once
        self._lock = threading.Lock()
        self._presences: Presences | None = None
        self._presence: Presence | None = None

    def expect(self, generations: int) -> None:
        """So many generations will answer; to be said before the first one does."""
        self._generations_left = generations

    def enter(self, presences: Presences, presence_id: int) -> None:
        """The request came through the ensemble under `presence_id`."""
        self._presences, self._presence = presences, presences.enter(presence_id)

    def watch(self, presences: Presences, presence_id: int) -> None:
        """The request is the watch of the one under `presence_id`."""
        presences.attach(presence_id, self._sender)

    def beat(self, stream: Stream, step_s: float) -> None:
        """Let the ensemble ask whether its client is still there, unless tokens of a stream do so."""
        if self._presence is not None and self._presences is not None:
            has_tokens_flowing = stream.has_sent_tokens and stream.request.wishes.streaming
            quiet_s = self._presences.quiet_s + (step_s if has_tokens_flowing else 0.0)
            self._presence.beat(lambda: response(beat_tensors(stream.handle)), quiet_s)

    def send(self, stream: Stream, piece: Piece) -> None:
        """Send one response; the final flag travels with the last one of all generations."""
        tensors = response_tensors(stream, piece, self._requested)
        self._has_sent = True
        if piece.is_last:
            self._end_one(response(tensors))
        else:
            if self._presence is not None:
                self._presence.touch()
            self._sender.send(self._streamed(tensors))

    def _streamed(self, tensors: dict[str, NDArray[Any]]) -> Any:
        """A response of the thread that delivers, which shares a tensor that nearly all of them have."""
        import triton_python_backend_utils as pb_utils

        if "sequence_length" not in tensors or tensors["sequence_length"].tolist() != [[1]]:
            return response(tensors)
        if self._one_token is None:
            self._one_token = pb_utils.Tensor("sequence_length", tensors["sequence_length"])
        others = [pb_utils.Tensor(name, tensor) for name, tensor in tensors.items() if name != "sequence_length"]
        return pb_utils.InferenceResponse([self._one_token, *others])

    def refuse(self, message: str) -> None:
        """End the request: it cannot be served as it is."""
        self._leave(lambda: self._sender.end(error_response(message)))

    def fail(self, stream: Stream, message: str) -> None:
        """End a generation: the server could not serve it. A BLS call only hears of it before and behind all else."""
        if stream.request.wishes.is_bls_call and (self._has_sent or self._generations_left > 1):
            self._end_one(None)
        else:
            self._end_one(error_response(message, is_clients_fault=False))

    def is_cancelled(self) -> bool:
        """The client has gone away."""
        return self._sender.is_cancelled()

    def _end_one(self, last: Any) -> None:
        with self._lock:
            self._generations_left -= 1
            is_final = self._generations_left == 0
        if is_final:
            self._leave(lambda: self._sender.end(last))
        elif last is not None:
            self._sender.send(last)

    def close(self, *, decoupled: bool) -> None:
        """Answer a `stop` request: nothing but the final flag, where a model may answer with nothing."""
        self._sender.end(None if decoupled else response(_no_tokens()))

    def _leave(self, then: Callable[[], None]) -> None:
        """End the watch of a request of the ensemble, and then the request."""
        presence, self._presence = self._presence, None
        if presence is None:
            then()
        else:
            presence.end(then)


class TextReply:
    """The way back to the client of one request to a text model."""

    def __init__(self, request: Any) -> None:
        self.requested = frozenset(request.requested_output_names())
        wish = request_parameter(request, PARAMETER)
        self.parameters = {} if wish is None else {PARAMETER: wish}  # of the request, that the engine reads
        self._sender = ResponseSender(request)

    def send(self, texts: Sequence[str], others: Mapping[str, NDArray[Any]]) -> None:
        """Send one of several responses: a text for each beam, and what else the engine's response held."""
        self._sender.send(self._response(texts, others))

    def send_last(self, texts: Sequence[str], others: Mapping[str, NDArray[Any]]) -> None:
        """Send the only response, or the last one."""
        self._sender.end(self._response(texts, others))

    def close(self) -> None:
        """Send the final flag, unless the last response has gone out."""
        self._sender.end()

    def refuse(self, message: str) -> None:
        """End the request: it cannot be served as it is."""
        self._sender.end(error_response(message))

    def fail(self, message: str) -> None:
        """End the request: the server could not serve it."""
        self._sender.end(error_response(message, is_clients_fault=False))

    def is_cancelled(self) -> bool:
        """The client has gone away."""
        return self._sender.is_cancelled()

    def is_answered(self) -> bool:
        """A question about this request went to the server and came back."""
        return self._sender.is_answered()

    def _response(self, texts: Sequence[str], others: Mapping[str, NDArray[Any]]) -> Any:
        # Triton drops what was not asked for without holding Python's lock: it must never see any of that.
        tensors = {"text_output": np.array([[text.encode() for text in texts]], np.object_), **others}
        return response({name: tensor for name, tensor in tensors.items() if name in self.requested})


def _no_tokens() -> dict[str, NDArray[Any]]:
    return {"output_ids": np.zeros((1, 1, 0), np.int32), "sequence_length": np.zeros((1, 1), np.int32)}
