"""Requests that nobody would send: whatever comes, it is answered, and the same processes serve the next request."""

from __future__ import annotations

from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream.backend.contract import ACCEPTED, REFUSED, SERVED
from tests.conftest import Served
from tests.integration.triton_calls import PROMPT, Stream, ask, text

ENGINE = "tensorrt_llm"
TEXT_MODELS = ("ensemble", "tensorrt_llm_bls")
TIMEOUT_US = 1_500_000  # what is no error may be a text of 2047 tokens
EXTREMES = [-(2**31), -2, -1, 0, 1, 2, 31, 32, 33, 49151, 49152, 2**31 - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 3.4e38, -3.4e38, float("nan"), float("inf"), float("-inf")]

bytes_values = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(lambda value: value.encode("utf-8", "surrogatepass")),
    st.sampled_from(
        [b"", b"\0", b"\xff", b"\xed\xa0\x80", b"{", b"(a+)+$", b"<|im_start|>", "é日\u200d".encode(), b"json"]
    ),
)
kinds = {
    np.int32: st.one_of(st.integers(-(2**31), 2**31 - 1), st.sampled_from(EXTREMES)),
    np.int64: st.integers(-(2**63), 2**63 - 1),
    np.uint64: st.integers(0, 2**64 - 1),
    np.float32: st.one_of(st.floats(width=32), st.sampled_from(FLOATS)),
    np.bool_: st.booleans(),
    np.object_: bytes_values,
}
# Small ones, most of them as the models declare them.
shapes = st.sampled_from([(1, 1), (1, 1), (1, 1), (1, 3), (1, 2, 2), (1, 0), (2, 1), (1,), (0,), (1, 1, 1), (3, 2)])


@st.composite
def arrays(draw: st.DrawFn, dtypes: tuple[Any, ...] = tuple(kinds)) -> Any:
    """An array of any type, of a shape that the model may or may not declare."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(shapes)
    size = int(np.prod(shape))
    values = draw(st.lists(kinds[dtype], min_size=size, max_size=size))
    array = np.empty(size, np.object_) if dtype is np.object_ else np.array(values, dtype)
    if dtype is np.object_:
        array[:] = values
    return array.reshape(shape)


valid_ids = st.lists(st.integers(0, 49151), min_size=1, max_size=70)
ids = st.one_of(valid_ids, valid_ids, valid_ids, st.lists(st.sampled_from(EXTREMES), min_size=1, max_size=9))
seldom_more = [1, 1, 1, 1, 2, 0, 2**31 - 1]
words = st.lists(st.sampled_from(EXTREMES), min_size=2, max_size=6).map(
    lambda values: np.array(values[: len(values) // 2 * 2], np.int32).reshape(1, 2, -1)
)
sampling = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from(FLOATS).map(np.float32),
        "runtime_top_k": st.sampled_from(EXTREMES).map(np.int32),
        "runtime_top_p": st.sampled_from(FLOATS).map(np.float32),
        "min_tokens": st.sampled_from(EXTREMES).map(np.int32),
        "repetition_penalty": st.sampled_from(FLOATS).map(np.float32),
        "presence_penalty": st.sampled_from(FLOATS).map(np.float32),
        "frequency_penalty": st.sampled_from(FLOATS).map(np.float32),
        "end_id": st.sampled_from(EXTREMES).map(np.int32),
        "num_return_sequences": st.sampled_from(seldom_more).map(np.int32),
        "beam_width": st.sampled_from(seldom_more).map(np.int32),
        "return_log_probs": st.booleans().map(np.bool_),
        "streaming": st.booleans().map(np.bool_),
    },
).map(lambda values: {name: np.array([[value]]) for name, value in values.items()})


@st.composite
def engine_requests(draw: st.DrawFn) -> dict[str, Any]:
    """Well-formed but for its values, or with tensors of any kind."""
    prompt = draw(ids)
    request: dict[str, Any] = {
        "input_ids": np.array([prompt], np.int32),
        "input_lengths": np.array([[draw(st.sampled_from([len(prompt)] * 5 + EXTREMES[:6]))]], np.int32),
        "request_output_len": np.array([[draw(st.sampled_from([1, 2, 5, *EXTREMES]))]], np.int32),
        **draw(sampling),
    }
    for name in ("stop_words_list", "bad_words_list"):
        if draw(st.integers(0, 3)) == 0:
            request[name] = draw(words)
    if draw(st.integers(0, 2)) == 0:
        names = sorted(SERVED | set(ACCEPTED) | set(REFUSED))
        request[draw(st.sampled_from(names))] = draw(arrays())
    return request


@st.composite
def text_requests(draw: st.DrawFn) -> dict[str, Any]:
    request: dict[str, Any] = {
        "text_input": np.array([[draw(bytes_values)]], np.object_),
        "max_tokens": np.array([[draw(st.sampled_from([1, 2, 5, *EXTREMES]))]], np.int32),
        "stream": np.array([[draw(st.booleans())]]),
    }
    for name in ("stop_words", "bad_words", "guided_decoding_guide_type", "guided_decoding_guide"):
        if draw(st.integers(0, 3)) == 0:
            request[name] = np.array([[draw(bytes_values)]], np.object_)
    names = ("text_input", "max_tokens", "temperature", "top_k", "top_p", "end_id", "seed", "stop_words", "beam_width")
    if draw(st.booleans()):
        request[draw(st.sampled_from(names))] = draw(arrays())
    return request


def send(served: Served, model: str, request: dict[str, Any]) -> None:
    """Send it, and return when it is answered; `Empty` when it never is."""
    import tritonclient.utils

    failure, stream = None, Stream(served)
    try:
        stream.start(model, timeout_us=TIMEOUT_US, **request)
        stream.rest()
    except tritonclient.utils.InferenceServerException as error:
        failure = str(error)
    finally:
        stream.close()
    assert failure is None or failure.strip()
    assert "restarted" not in (failure or ""), "it took the engine down"


def processes(served: Served) -> set[int]:
    """Of the server's models, without the one that tries guides: it is ended when a guide takes too long."""
    return {
        child.pid
        for child in psutil.Process(served.pid).children(recursive=True)
        if not any("guide_trial" in argument for argument in child.cmdline())
    }


def settled(test: Any) -> Any:
    """Bounded, the same examples every time."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=checks)(test)


@settled
@given(request=engine_requests())
def test_no_request_to_the_engine_takes_it_down(served: Served, request: dict[str, Any]) -> None:
    before = processes(served)
    send(served, ENGINE, request)
    assert processes(served) == before


@pytest.mark.parametrize("model", TEXT_MODELS)
@settled
@given(request=text_requests())
def test_no_request_for_text_takes_the_server_down(served: Served, model: str, request: dict[str, Any]) -> None:
    before = processes(served)
    send(served, model, request)
    assert processes(served) == before


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_the_next_request_is_served(served: Served, model: str) -> None:
    assert text(ask(served, model, text_input=PROMPT, max_tokens=4, stream=True))
