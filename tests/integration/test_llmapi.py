"""The LLM API model in the real tritonserver, with a stand-in for `tensorrt_llm` beside its model.py."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc

from slipstream.repository.llmapi import plan_llmapi, write_llmapi
from slipstream.repository.model_plan import Locations
from slipstream.serve.ports import resolve_ports
from slipstream.serve.triton import TritonServer, start_triton
from slipstream.spec_file import load_deployment
from tests.conftest import ROOT
from tests.integration.triton_calls import Response

FAKE = ROOT / "tests" / "fakes" / "llmapi" / "tensorrt_llm"
DEPLOYMENT = "llama-3.1-8b-nvfp4-llmapi-b200"
MODEL = "tensorrt_llm"
_TYPES = {
    "text_input": "BYTES",
    "sampling_param_stop": "BYTES",
    "sampling_param_temperature": "FP32",
    "sampling_param_top_p": "FP32",
    "sampling_param_seed": "UINT64",
    "sampling_param_max_tokens": "INT32",
    "sampling_param_best_of": "INT32",
    "sampling_param_top_k": "INT32",
}
_NUMPY = {"BYTES": np.object_, "FP32": np.float32, "UINT64": np.uint64, "INT32": np.int32, "BOOL": np.bool_}


class Call:
    """One request on a gRPC stream of its own, and the responses that come back."""

    def __init__(self, server: TritonServer, *, request_id: str = "", **values: Any) -> None:
        from queue import Queue

        self.client = tritonclient.grpc.InferenceServerClient(server.endpoints.grpc)
        self._events: Queue[Any] = Queue()
        self.client.start_stream(lambda result, error: self._events.put((result, error)))
        self.client.async_stream_infer(MODEL, _inputs(values), request_id=request_id, enable_empty_final_response=True)

    def next(self) -> tuple[Response, bool]:
        """The next response, and whether it is the last."""
        result, error = self._events.get(timeout=30)
        if error is not None:
            raise error
        message = result.get_response()
        outputs = {output.name: result.as_numpy(output.name) for output in message.outputs}
        return outputs, message.parameters["triton_final_response"].bool_param

    def rest(self) -> list[Response]:
        """All responses with outputs, up to the last."""
        found = []
        is_last = False
        while not is_last:
            outputs, is_last = self.next()
            if outputs:
                found.append(outputs)
        return found

    def leave(self) -> None:
        """Go away with the request unanswered."""
        self.client.stop_stream(cancel_requests=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with serving(tmp_path_factory.mktemp("llmapi")) as running:
        yield running


def ask(server: TritonServer, prompt: str, **values: Any) -> list[Response]:
    call = Call(server, text_input=prompt, **values)
    try:
        return call.rest()
    finally:
        call.client.stop_stream()


def stream(server: TritonServer, prompt: str, **values: Any) -> list[str]:
    return [text(response) for response in ask(server, prompt, streaming=True, **values)]


def text(response: Response) -> str:
    return str(response["text_output"][0].decode())


def test_a_stream_brings_every_new_piece_once(server: TritonServer) -> None:
    pieces = stream(server, "count", sampling_param_max_tokens=6)
    assert "".join(pieces) == "0 1 2 3 4 5 "
    assert len(pieces) > 2


def test_without_streaming_one_response_brings_all(server: TritonServer) -> None:
    (response,) = ask(server, "count", sampling_param_max_tokens=6)
    assert text(response) == "0 1 2 3 4 5 "


def test_the_prompt_is_echoed_when_the_request_asks_for_it(server: TritonServer) -> None:
    (response,) = ask(server, "say no", sampling_param_exclude_input_from_output=False)
    assert text(response) == "say nono"


def test_the_beginning_of_a_stop_string_never_reaches_a_client(server: TritonServer) -> None:
    for word in ("say", "leak"):
        pieces = stream(server, f"{word} one two STOP three", sampling_param_stop=["STOP", "###"])
        assert "".join(pieces) == "one two "


def test_an_engine_that_misses_a_stop_string_is_told_to_end(server: TritonServer) -> None:
    before = aborted(server)
    assert stream(server, "leak one; two three four", sampling_param_stop=[";"])
    assert aborted(server) == before + 1


def test_text_that_only_looks_like_a_stop_string_comes_whole(server: TritonServer) -> None:
    assert "".join(stream(server, "say ST ST", sampling_param_stop=["STOP"])) == "ST ST"


def test_a_character_comes_whole_or_not_at_all(server: TritonServer) -> None:
    pieces = stream(server, "euro")
    assert "".join(pieces) == "1 €"
    assert not any("\ufffd" in piece for piece in pieces)


def test_the_end_has_its_reasons_and_the_steps_before_have_none(server: TritonServer) -> None:
    wishes = {"return_finish_reason": True, "return_stop_reason": True, "return_cumulative_logprob": True}
    *steps, last = ask(server, "count", streaming=True, sampling_param_max_tokens=4, **wishes)
    assert last["finish_reason"][0] == b"length"
    assert last["stop_reason"][0] == b""
    assert last["cumulative_logprob"].tolist() == [-2.0]
    assert {step["finish_reason"][0] for step in steps} == {b""}


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("word", ["say", "leak"])
def test_a_stop_string_is_the_stop_reason(server: TritonServer, word: str, *, streaming: bool) -> None:
    wishes = {"return_finish_reason": True, "return_stop_reason": True}
    responses = ask(server, f"{word} one; two", streaming=streaming, sampling_param_stop=[";"], **wishes)
    assert "".join(map(text, responses)) == "one"
    assert (responses[-1]["finish_reason"][0], responses[-1]["stop_reason"][0]) == (b"stop", b";")


def test_outputs_that_nobody_asked_for_stay_away(server: TritonServer) -> None:
    (response,) = ask(server, "say a")
    assert list(response) == ["text_output"]


def test_metrics_have_their_declared_types(server: TritonServer) -> None:
    (response,) = ask(server, "say a", sampling_param_return_perf_metrics=True)
    assert response["kv_cache_reused_block"].tolist() == [3]
    assert response["kv_cache_hit_rate"].tolist() == [0.75]
    assert response["arrival_time_ns"].tolist() == [20 * 86400 * 10**9 + 1000]
    assert response["total_draft_tokens"].dtype == np.int32


def test_the_request_reaches_the_engine_by_its_own_names(server: TritonServer) -> None:
    (response,) = ask(
        server,
        "params",
        sampling_param_temperature=0.5,
        sampling_param_top_k=3,
        sampling_param_top_p=0.25,
        sampling_param_seed=7,
        sampling_param_max_tokens=9,
        sampling_param_best_of=2,
        sampling_param_stop=["§"],
    )
    assert json.loads(text(response)) == {
        "add_special_tokens": True,
        "skip_special_tokens": True,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.25,
        "seed": 7,
        "max_tokens": 9,
        "best_of": 2,
        "stop": ["§"],
    }


def test_the_engine_is_opened_with_what_the_deployment_says(server: TritonServer) -> None:
    (response,) = ask(server, "arguments")
    arguments = json.loads(text(response))
    assert arguments["max_batch_size"] == 256
    assert arguments["kv_cache_config"]["dtype"] == "fp8"
    assert "triton_config" not in arguments


def test_sixteen_streams_run_at_once_and_do_not_mix(server: TritonServer) -> None:
    started = time.monotonic()
    calls = [
        Call(server, text_input=f"say {chr(97 + index) * 60}", streaming=True, sampling_param_max_tokens=100)
        for index in range(16)
    ]
    texts = ["".join(text(response) for response in call.rest()) for call in calls]
    for call in calls:
        call.client.stop_stream()
    assert texts == [chr(97 + index) * 60 for index in range(16)]
    assert time.monotonic() - started < 16 * 30 * 0.01


@pytest.mark.parametrize(
    ("prompt", "values", "complaint"),
    [
        ("", {}, "text_input is empty"),
        ("say a", {"sampling_param_temperature": -1.0}, "sampling_param_temperature is -1, it must be 0"),
        ("say a", {"sampling_param_top_p": 1.5}, "sampling_param_top_p is 1.5"),
        ("say a", {"sampling_param_max_tokens": 0}, "sampling_param_max_tokens is 0, it must be 1 or more"),
        ("say a", {"sampling_param_stop": [""]}, "sampling_param_stop holds an empty string"),
        ("say a", {"sampling_param_best_of": 2, "streaming": True}, "a stream needs 1"),
        ("refuse", {}, "the prompt is refused"),
        ("long", {}, "the prompt is too long"),
        ("die", {}, "the engine failed: CUDA error: an illegal memory access was encountered"),
        ("die", {"streaming": True}, "the engine failed: CUDA error: an illegal memory access was encountered"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    server: TritonServer, prompt: str, values: Mapping[str, Any], complaint: str
) -> None:
    with pytest.raises(Exception, match=complaint) as caught:
        ask(server, prompt, **values)
    assert "\n" not in str(caught.value)
    assert stream(server, "say ok")


def test_several_prompts_in_one_request_are_refused(server: TritonServer) -> None:
    with pytest.raises(Exception, match="holds 2 prompts, the limit is 1"):
        ask(server, ["say a", "say b"])  # type: ignore[arg-type]


def test_a_client_that_leaves_ends_its_generation(server: TritonServer) -> None:
    before = aborted(server)
    call = Call(server, text_input="count", streaming=True, sampling_param_max_tokens=100_000)
    call.next()
    call.leave()
    deadline = time.monotonic() + 5
    while aborted(server) == before:
        assert time.monotonic() < deadline, "the engine never heard of it"
        time.sleep(0.02)


def test_a_stop_request_ends_a_generation_with_what_it_has(server: TritonServer) -> None:
    call = Call(
        server,
        request_id="17",
        text_input="count",
        sampling_param_max_tokens=100_000,
        return_finish_reason=True,
    )
    time.sleep(0.3)
    assert ask(server, "unused", request_id="17", stop=True) == []
    (response,) = call.rest()
    call.client.stop_stream()
    assert text(response).startswith("0 1 2 ")
    assert response["finish_reason"][0] == b"cancelled"


def test_a_generation_that_the_engine_does_not_end_ends_all_the_same(server: TritonServer) -> None:
    call = Call(server, request_id="18", text_input="deaf", streaming=True, sampling_param_max_tokens=100_000)
    call.next()
    ask(server, "unused", request_id="18", stop=True)
    assert call.rest()
    call.client.stop_stream()


def test_a_stop_request_needs_an_id(server: TritonServer) -> None:
    with pytest.raises(Exception, match="the request has no id"):
        ask(server, "unused", stop=True)


def aborted(server: TritonServer) -> int:
    return int(text(ask(server, "aborted")[0]))


def test_a_model_that_is_not_decoupled_answers_plain_infer(tmp_path: Path) -> None:
    with serving(tmp_path, "runtime.decoupled=false", "runtime.exclude_input_in_output=false") as server:
        with tritonclient.grpc.InferenceServerClient(server.endpoints.grpc) as client:
            answer = client.infer(MODEL, _inputs({"text_input": "say yes"})).as_numpy("text_output")
            with pytest.raises(Exception, match="the model is not decoupled"):
                client.infer(MODEL, _inputs({"text_input": "say yes", "streaming": True}))
        assert answer is not None
        assert answer[0] == b"say yesyes"


def test_more_than_the_queue_holds_is_refused_and_all_text_so_far_can_be_had(tmp_path: Path) -> None:
    overrides = ("engine.max_batch_size=1", "runtime.max_queue_size=1", "runtime.accumulate_tokens=true")
    with serving(tmp_path, *overrides) as server:
        held = [Call(server, text_input="count", sampling_param_max_tokens=200) for _ in range(2)]
        time.sleep(0.2)
        with pytest.raises(Exception, match="2 requests are in flight, the limit is 2"):
            ask(server, "say a")
        for call in held:
            call.rest()
            call.client.stop_stream()
        pieces = stream(server, "count", sampling_param_max_tokens=3)
        assert pieces[0] == "0 "
        assert pieces[-1] == "0 1 2 "


def test_a_model_yaml_that_the_engine_does_not_take_fails_the_load(tmp_path: Path) -> None:
    repository = render(tmp_path)
    path = repository / MODEL / "1" / "model.yaml"
    path.write_text(path.read_text().replace("enable_block_reuse", "enable_block_reuze"))
    running = start_triton(repository, resolve_ports("auto"), tmp_path / "run")
    try:
        assert running.process.wait(30) != 0
        assert "extra inputs are not permitted: enable_block_reuze" in running.log.read_text()
    finally:
        running.stop()


def test_a_model_that_hangs_while_it_loads_does_not_outlive_its_server(tmp_path: Path) -> None:
    repository = render(tmp_path)
    path = repository / MODEL / "1" / "model.yaml"
    path.write_text(path.read_text().replace(f"/models/{DEPLOYMENT}/checkpoint", "/hangs"))
    running = start_triton(repository, resolve_ports("auto"), tmp_path / "run")
    try:
        (stub,) = _wait_for(lambda: [child for child in _children(running) if "stub" in " ".join(child.cmdline())])
        (guard,) = _wait_for(lambda: [child for child in stub.children() if child.name() == "sh"])
        running.process.kill()
        _, alive = psutil.wait_procs([stub, guard], timeout=15)
        assert alive == []
    finally:
        running.kill()


def _children(running: TritonServer) -> list[psutil.Process]:
    return psutil.Process(running.process.pid).children()


def _wait_for(look: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    deadline = time.monotonic() + 30
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


@contextmanager
def serving(directory: Path, *overrides: str) -> Iterator[TritonServer]:
    """The rendered repository, with the stand-in package beside model.py, where the stub looks for modules."""
    running = start_triton(render(directory, *overrides), resolve_ports("auto"), directory / "run")
    try:
        _wait_until_ready(running)
        yield running
    finally:
        running.stop()


def render(directory: Path, *overrides: str) -> Path:
    spec = load_deployment(DEPLOYMENT, overrides, root=ROOT)
    repository = directory / "model_repository"
    repository.mkdir()
    locations = Locations(engine_dir=f"/models/{spec.name}/checkpoint", tokenizer_dir=f"/models/{spec.name}/model")
    write_llmapi(plan_llmapi(spec, locations), repository)
    shutil.copytree(FAKE, repository / MODEL / "1" / "tensorrt_llm", ignore=shutil.ignore_patterns("__pycache__"))
    return repository


def _wait_until_ready(running: TritonServer) -> None:
    deadline = time.monotonic() + 60
    with tritonclient.grpc.InferenceServerClient(running.endpoints.grpc) as client:
        while True:
            try:
                if client.is_model_ready(MODEL):
                    return
            except tritonclient.grpc.InferenceServerException:
                pass
            assert running.process.poll() is None, running.log.read_text()[-3000:]
            assert time.monotonic() < deadline, running.log.read_text()[-3000:]
            time.sleep(0.1)


def _inputs(values: Mapping[str, Any]) -> list[Any]:
    built = []
    for name, value in values.items():
        kind = _TYPES.get(name, "BOOL")
        several = value if isinstance(value, list) else [value]
        array = np.array([one.encode() if isinstance(one, str) else one for one in several], _NUMPY[kind])
        tensor = tritonclient.grpc.InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array)
        built.append(tensor)
    return built
