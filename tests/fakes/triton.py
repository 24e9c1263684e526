"""A Triton that speaks the real gRPC protocol and plays scripts instead of models.

It holds requests against the contract of TensorRT-LLM's models, refuses what Triton refuses in Triton's words, and
remembers what came and what was cancelled.
"""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor

import slipstream

CONTRACT = Path(slipstream.__file__).parent / "repository" / "contract" / "triton_models.json"
_MODELS: dict[str, Any] = json.loads(CONTRACT.read_text())["models"]
_WIRE_NAMES = {"TYPE_STRING": "BYTES"}
_NUMBER_FORMATS = {"INT32": "i", "UINT64": "Q", "FP32": "f", "BOOL": "?"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a model answers: one response per piece, text or token ids."""

    pieces: Sequence[str | Sequence[int]] = ()
    token_counts: Sequence[int] | None = None  # tokens per piece; 1 each (or the ids) if not given
    counts_tokens: bool = True  # False: an older server without num_output_tokens
    delay_s: float = 0.0  # before each piece
    error: str | None = None  # sent after the pieces, in the place of the end
    status: grpc.StatusCode | None = None  # abort the call with it after the pieces
    hangs: bool = False  # never ends after the pieces
    is_final_with_last_piece: bool = False  # as the C++ backend does; else an empty final response follows
    says_final: bool = True


@dataclass(slots=True)
class Received:
    """A request as it came, its tensors decoded."""

    model: str
    id: str
    inputs: dict[str, list[Any]]
    shapes: dict[str, list[int]]
    outputs: list[str]
    wants_empty_final: bool
    metadata: dict[str, str] = field(default_factory=dict)  # of the gRPC call


@dataclass(slots=True)
class FakeTriton:
    """A context manager: serves on a free port in a thread of its own until left."""

    models: dict[str, Script]
    port: int = 0
    received: list[Received] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)  # request ids
    finished: list[str] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _server: Any = None
    _thread: threading.Thread | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def wait_until_cancelled(self, count: int = 1, *, within_s: float = 5.0) -> list[str]:
        """Ids of the cancelled requests once there are `count`; fewer if the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.cancelled) >= count, timeout=within_s)
            return list(self.cancelled)

    def wait_until_received(self, count: int = 1, *, within_s: float = 5.0) -> list[Received]:
        """The requests once there are `count`; fewer if the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.received) >= count, timeout=within_s)
            return list(self.received)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-triton")
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(timeout=10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None
        asyncio.run_coroutine_threadsafe(self._server.stop(grace=0), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _start(self) -> None:
        self._server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(self), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    def note(self, to: list[Any], what: object) -> None:
        """Append under the lock and wake who waits."""
        with self._changed:
            to.append(what)
            self._changed.notify_all()


class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, triton: FakeTriton) -> None:
        self._triton = triton

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ServerLiveResponse(live=True)

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for message in requests:
            try:
                async for response in self._answer(message, context):
                    yield response
            except (asyncio.CancelledError, GeneratorExit):
                self._triton.note(self._triton.cancelled, message.id)
                raise

    async def _answer(self, message: Any, context: Any) -> AsyncIterator[Any]:
        triton = self._triton
        request = _decode(message)
        request.metadata = {key: str(value) for key, value in context.invocation_metadata()}
        triton.note(triton.received, request)
        refusal = _refusal(message, known=triton.models)
        if refusal is not None:
            yield pb.ModelStreamInferResponse(error_message=f"[request id: {message.id}] {refusal}")
            return
        script = triton.models[message.model_name]
        for index, _ in enumerate(script.pieces):
            await asyncio.sleep(script.delay_s)
            yield _piece(request, script, index)
        async for response in _ending(request, script, context):
            yield response
        triton.note(triton.finished, request.id)


def _decode(message: Any) -> Received:
    pairs = list(zip(message.inputs, message.raw_input_contents, strict=True))
    return Received(
        model=message.model_name,
        id=message.id,
        inputs={tensor.name: _values(tensor.datatype, raw) for tensor, raw in pairs},
        shapes={tensor.name: list(tensor.shape) for tensor, _ in pairs},
        outputs=[output.name for output in message.outputs],
        wants_empty_final=message.parameters["triton_enable_empty_final_response"].bool_param,
    )


def _values(datatype: str, raw: bytes) -> list[Any]:
    if datatype == "BYTES":
        return [text.decode() for text in deserialize_bytes_tensor(raw)]
    form = _NUMBER_FORMATS[datatype]
    return list(struct.unpack(f"<{len(raw) // struct.calcsize(form)}{form}", raw))


def _refusal(message: Any, *, known: dict[str, Script]) -> str | None:
    """What Triton objects to, in its words."""
    name = message.model_name
    if name not in known:
        return f"Request for unknown model: '{name}' is not found"
    declared = {tensor["name"]: tensor for tensor in _MODELS[name]["inputs"]}
    for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True):
        if tensor.name not in declared:
            return f"unexpected inference input '{tensor.name}' for model '{name}'"
        wanted = _wire_name(declared[tensor.name]["data_type"])
        if tensor.datatype != wanted:
            found = f"inference input '{tensor.name}' data-type is '{tensor.datatype}'"
            return f"{found}, but model '{name}' expects '{wanted}'"
        dims = [-1, *declared[tensor.name]["dims"]]
        if len(dims) != len(tensor.shape) or any(d not in (-1, s) for d, s in zip(dims, tensor.shape, strict=True)):
            return (
                f"unexpected shape for input '{tensor.name}' for model '{name}'."
                f" Expected {dims}, got {list(tensor.shape)}."
            )
        if not _fills(tensor, raw):
            return f"input byte size mismatch for input '{tensor.name}' for model '{name}'"
    offered = {tensor["name"] for tensor in _MODELS[name]["outputs"]}
    strange = [output.name for output in message.outputs if output.name not in offered]
    return f"unexpected inference output '{strange[0]}' for model '{name}'" if strange else None


def _wire_name(data_type: str) -> str:
    return _WIRE_NAMES.get(data_type, data_type.removeprefix("TYPE_"))


def _fills(tensor: Any, raw: bytes) -> bool:
    count = 1
    for size in tensor.shape:
        count *= size
    if tensor.datatype == "BYTES":
        return len(deserialize_bytes_tensor(raw)) == count
    return len(raw) == count * struct.calcsize(_NUMBER_FORMATS[tensor.datatype])


def _piece(request: Received, script: Script, index: int) -> Any:
    piece = script.pieces[index]
    is_last = index == len(script.pieces) - 1
    message = pb.ModelStreamInferResponse()
    response = message.infer_response
    response.model_name, response.id = request.model, request.id
    response.parameters["triton_final_response"].bool_param = script.is_final_with_last_piece and is_last
    for name, (datatype, shape, raw) in _outputs(request, script, index, piece).items():
        if not request.outputs or name in request.outputs:
            response.outputs.add(name=name, datatype=datatype, shape=shape)
            response.raw_output_contents.append(raw)
    return message


def _outputs(
    request: Received, script: Script, index: int, piece: str | Sequence[int]
) -> dict[str, tuple[str, list[int], bytes]]:
    """Datatype, shape and bytes of each output by name."""
    if isinstance(piece, str):
        text = piece.encode()
        outputs = {"text_output": ("BYTES", [1, 1], struct.pack("<I", len(text)) + text)}
    else:
        ids = struct.pack(f"<{len(piece)}i", *piece)
        outputs = {"output_ids": ("INT32", [1, 1, len(piece)], ids), "sequence_length": _count(len(piece))}
    if script.counts_tokens and request.inputs.get("return_num_output_tokens") == [True]:
        tokens = 1 if isinstance(piece, str) else len(piece)
        outputs["num_output_tokens"] = _count(script.token_counts[index] if script.token_counts else tokens)
    if script.counts_tokens and request.inputs.get("return_num_input_tokens") == [True]:
        prompt = request.inputs.get("text_input", [""])[0].split() or request.inputs.get("input_ids", [])
        outputs["num_input_tokens"] = _count(len(prompt))
    return outputs


def _count(value: int) -> tuple[str, list[int], bytes]:
    return "INT32", [1, 1], struct.pack("<i", value)


async def _ending(request: Received, script: Script, context: Any) -> AsyncIterator[Any]:
    if script.error is not None:
        yield pb.ModelStreamInferResponse(error_message=f"[request id: {request.id}] {script.error}")
    elif script.status is not None:
        await context.abort(script.status, "as the script says")
    elif script.hangs:
        await asyncio.sleep(3600)
    elif script.says_final and not script.is_final_with_last_piece and request.wants_empty_final:
        message = pb.ModelStreamInferResponse()
        message.infer_response.model_name, message.infer_response.id = request.model, request.id
        message.infer_response.parameters["triton_final_response"].bool_param = True
        yield message
