"""The three paths to the engine on a real tritonserver: same text, refusals in words, and clients that go away."""

from __future__ import annotations

import re
import time
import urllib.request
from typing import Any

import numpy as np
import pytest

from tests.conftest import Served

PATHS = ("ensemble", "tensorrt_llm_bls")
PROMPT = "The capital of France is"
RELEASE_TIMEOUT_S = 5.0  # generous: the machine may be busy; an engine that is not told runs on for far longer


class Stream:
    """One gRPC stream and what came back on it."""

    def __init__(self, served: Served) -> None:
        from queue import Queue

        import tritonclient.grpc

        self.client = tritonclient.grpc.InferenceServerClient(served.grpc)
        self._events: Queue[Any] = Queue()
        self.client.start_stream(lambda result, error: self._events.put((result, error)))

    def start(self, model: str, *, max_tokens: int, **inputs: Any) -> None:
        self.client.async_stream_infer(model, _inputs(max_tokens, inputs), enable_empty_final_response=True)

    def texts(self) -> list[str]:
        """Text of every response up to the final one; an error is raised."""
        texts: list[str] = []
        while True:
            result, error = self._events.get(timeout=60)
            if error is not None:
                raise error
            text = result.as_numpy("text_output")
            if text is not None:
                texts.append(text.reshape(-1)[0].decode())
            if result.get_response().parameters["triton_final_response"].bool_param:
                return texts


def _inputs(max_tokens: int, inputs: dict[str, Any]) -> list[Any]:
    import tritonclient.grpc

    values = {
        "text_input": np.array([[PROMPT.encode()]], np.object_),
        "max_tokens": np.array([[max_tokens]], np.int32),
        "stream": np.array([[True]]),
        **inputs,
    }
    types = {"object": "BYTES", "int32": "INT32", "bool": "BOOL", "float32": "FP32", "uint64": "UINT64"}
    built = []
    for name, value in values.items():
        tensor = tritonclient.grpc.InferInput(name, list(value.shape), types[value.dtype.name])
        tensor.set_data_from_numpy(value)
        built.append(tensor)
    return built


def generate(served: Served, model: str, *, max_tokens: int = 12, **inputs: Any) -> list[str]:
    stream = Stream(served)
    try:
        stream.start(model, max_tokens=max_tokens, **inputs)
        return stream.texts()
    finally:
        stream.client.stop_stream()


def active_requests(served: Served) -> float:
    text = urllib.request.urlopen(f"http://{served.metrics}/metrics").read().decode()
    found = re.search(r'nv_trt_llm_request_metrics\{[^}]*request_type="active"[^}]*\} (\S+)', text)
    assert found is not None
    return float(found.group(1))


def wait_for_active(served: Served, count: int) -> None:
    deadline = time.monotonic() + RELEASE_TIMEOUT_S
    while active_requests(served) != count:
        assert time.monotonic() < deadline, f"the engine did not come to {count} active requests"
        time.sleep(0.01)


def words(*texts: str) -> Any:
    return np.array([[text.encode() for text in texts]], np.object_)


def test_both_text_paths_write_the_same_text(served: Served) -> None:
    assert "".join(generate(served, "ensemble")) == "".join(generate(served, "tensorrt_llm_bls"))


@pytest.mark.parametrize("model", PATHS)
def test_a_stop_word_ends_the_text_also_in_the_middle_of_tokens(served: Served, model: str) -> None:
    whole = "".join(generate(served, model))
    middle = whole[3:6]
    stopped = "".join(generate(served, model, stop_words=words(middle)))
    assert middle in stopped
    assert len(stopped) < len(whole)


@pytest.mark.parametrize("model", PATHS)
def test_a_bad_word_is_never_written(served: Served, model: str) -> None:
    first_word = "".join(generate(served, model)).split()[0].strip(".,")
    assert first_word not in "".join(generate(served, model, bad_words=words(first_word)))


@pytest.mark.parametrize("model", PATHS)
def test_a_refusal_names_the_tensor(served: Served, model: str) -> None:
    with pytest.raises(Exception, match="len_penalty"):
        generate(served, model, length_penalty=np.array([[2.0]], np.float32))


@pytest.mark.parametrize("model", PATHS)
def test_a_client_that_goes_away_frees_the_engine(served: Served, model: str) -> None:
    wait_for_active(served, 0)
    stream = Stream(served)
    stream.start(model, max_tokens=1500, end_id=np.array([[-1]], np.int32))
    wait_for_active(served, 1)
    time.sleep(0.5)  # past the first token: before it the ensemble cannot notice
    stream.client.stop_stream(cancel_requests=True)
    wait_for_active(served, 0)
