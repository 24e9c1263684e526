"""Calling the models of a running deployment over gRPC, tensor by tensor."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Mapping, Sequence
from queue import Queue
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.conftest import Served

PROMPT = "The capital of France is"
RELEASE_TIMEOUT_S = 8.0  # an engine that is not told runs on for 15 s at least: 1500 tokens
_TYPES = {
    "object": "BYTES",
    "bool": "BOOL",
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
}

Response = Mapping[str, npt.NDArray[Any]]


class Stream:
    """One gRPC stream, and the responses that come back on it."""

    def __init__(self, served: Served) -> None:
        import tritonclient.grpc

        self.client = tritonclient.grpc.InferenceServerClient(served.grpc)
        self._events: Queue[Any] = Queue()
        self._in_flight = 0
        self.client.start_stream(lambda result, error: self._events.put((result, error)))

    def start(
        self,
        model: str,
        *,
        request_id: str = "",
        priority: int = 0,
        timeout_us: int | None = None,
        parameters: Mapping[str, str] | None = None,
        **values: Any,
    ) -> None:
        """Send one request; `values` are its inputs."""
        self._in_flight += 1
        self.client.async_stream_infer(
            model,
            inputs(values),
            request_id=request_id,
            priority=priority,
            timeout=timeout_us,
            enable_empty_final_response=True,
            parameters=parameters,
        )

    def next(self) -> Response | None:
        """The next response, none after the last one; an error is raised."""
        result, error = self._events.get(timeout=60)
        if error is not None:
            self._in_flight -= 1
            raise error
        message = result.get_response()
        if message.parameters["triton_final_response"].bool_param and not message.outputs:
            self._in_flight -= 1
            return None
        if message.parameters["triton_final_response"].bool_param:
            self._events.put((_Final(), None))
        return {output.name: result.as_numpy(output.name) for output in message.outputs}

    def rest(self) -> list[Response]:
        """All responses up to the final one."""
        return list(iter(self.next, None))

    def close(self) -> None:
        """Cancel what still runs.

        A stream whose requests have ended is not cancelled: Triton 2.51 would keep its models now and then, and end by
        its timeout only.
        """
        self.client.stop_stream(cancel_requests=self._in_flight > 0)


class _Final:
    """Stands for the final flag when it came with a response."""

    def get_response(self) -> Any:
        from tritonclient.grpc import service_pb2

        message = service_pb2.ModelInferResponse()
        message.parameters["triton_final_response"].bool_param = True
        return message


def inputs(values: Mapping[str, Any]) -> list[Any]:
    """The input tensors; a plain value becomes [1, 1], a list [1, n], and an array stays as it is."""
    import tritonclient.grpc

    built = []
    for name, value in values.items():
        array = value if isinstance(value, np.ndarray) else _array(name, value)
        tensor = tritonclient.grpc.InferInput(name, list(array.shape), _TYPES[array.dtype.name])
        tensor.set_data_from_numpy(array)
        built.append(tensor)
    return built


def ask(served: Served, model: str, *, parameters: Mapping[str, str] | None = None, **values: Any) -> list[Response]:
    """All responses to one request to a decoupled model."""
    stream = Stream(served)
    try:
        stream.start(model, parameters=parameters, **values)
        return stream.rest()
    finally:
        stream.close()


def infer(served: Served, model: str, **values: Any) -> Response:
    """The response of a model that gives one."""
    import tritonclient.grpc

    with tritonclient.grpc.InferenceServerClient(served.grpc) as client:
        result = client.infer(model, inputs(values))
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def text(responses: Sequence[Response]) -> str:
    """The text of all responses of a text model."""
    return "".join(response["text_output"].reshape(-1)[0].decode() for response in responses)


def token_ids(responses: Sequence[Response]) -> list[int]:
    """The tokens of all responses of `tensorrt_llm`."""
    return [token for response in responses for token in response["output_ids"].reshape(-1).tolist()]


def prompt_of(ids: Sequence[int], max_tokens: int) -> dict[str, Any]:
    """The inputs of `tensorrt_llm` that every request needs."""
    return {"input_ids": list(ids), "input_lengths": len(ids), "request_output_len": max_tokens}


def active_requests(served: Served) -> float:
    """Requests that the engine has, as its gauge says."""
    metrics = urllib.request.urlopen(f"http://{served.metrics}/metrics").read().decode()
    found = re.search(r'nv_trt_llm_request_metrics\{[^}]*request_type="active"[^}]*\} (\S+)', metrics)
    assert found is not None
    return float(found.group(1))


def wait_for_active(served: Served, count: int) -> None:
    """Return when the engine has `count` requests."""
    deadline = time.monotonic() + RELEASE_TIMEOUT_S
    while active_requests(served) != count:
        assert time.monotonic() < deadline, f"the engine did not come to {count} active requests"
        time.sleep(0.01)


def _array(name: str, value: Any) -> npt.NDArray[Any]:
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], str | bytes):
        return np.array([[one.encode() if isinstance(one, str) else one for one in values]], np.object_)
    if isinstance(values[0], bool):
        return np.array([values], np.bool_)
    if name == "seed":
        return np.array([values], np.uint64)
    return np.array([values], np.float32 if isinstance(values[0], float) else np.int32)
