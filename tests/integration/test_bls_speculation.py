"""Draft-target speculation on a real tritonserver; toy engines stand in for the two that need GPUs."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipstream.progress import silent
from slipstream.project import Workspace
from slipstream.repository.pbtxt import read_config, to_text
from slipstream.repository.render import Locations, render_repository
from slipstream.serve.supervise import served as serving
from slipstream.spec_file import load_deployment
from slipstream.text.tokenizer import Tokenizer
from tests.conftest import DEFAULT, Served
from tests.integration.test_backend_one_response import Pending
from tests.integration.triton_calls import PROMPT, ask, infer, prompt_of, text

TOY = Path(__file__).parents[1] / "fakes" / "toy_engine.py"
BLS, TARGET, DRAFT = "tensorrt_llm_bls", "tensorrt_llm", "tensorrt_llm_draft"
MAX_SEQ_LEN = 120
RIGHT = (0.0, 0.5, 1.0)  # shares of the draft's tokens that the target accepts
NO_END = {"end_id": -1}


@dataclass(frozen=True)
class Toys:
    """A server whose engines are toys, and what they were asked."""

    served: Served
    log: Path
    tokenizer: Tokenizer

    def plain(self, **wishes: Any) -> str:
        return text([infer(self.served, BLS, **{"text_input": PROMPT, "stream": False, **wishes})])

    def speculated(self, *, right: float = 1.0, drafts: int = 3, **wishes: Any) -> str:
        return text([self.response(right=right, drafts=drafts, **wishes)])

    def response(self, *, right: float = 1.0, drafts: int = 3, **wishes: Any) -> Any:
        asked = {"text_input": PROMPT, "stream": False, "num_draft_tokens": drafts, "temperature": right, **wishes}
        return infer(self.served, BLS, **asked)

    def output_ids(self, max_tokens: int, **wishes: Any) -> list[int]:
        """What the target writes alone."""
        prompt = prompt_of(self.tokenizer.encode(PROMPT), max_tokens)
        found = infer(self.served, TARGET, **prompt, exclude_input_in_output=True, **wishes)
        ids: list[int] = found["output_ids"].reshape(-1).tolist()
        return ids

    def calls(self, role: str) -> list[dict[str, Any]]:
        """The calls of one engine that the last request to BLS led to."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        last = next(line["request_id"] for line in reversed(lines) if line["request_id"].startswith("bls-"))
        return [line for line in lines if line["request_id"] == last and line["role"] == role and "stop" not in line]


@pytest.fixture(scope="module")
def toys(artifacts: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toys]:
    yield from toy_server("llama-3.3-70b-fp8-tp4-draft", artifacts, root, tmp_path_factory.mktemp("toys"))


@pytest.fixture(scope="module")
def streaming_toys(artifacts: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toys]:
    yield from toy_server("llama-3.1-8b-fp8-h100", artifacts, root, tmp_path_factory.mktemp("streaming"))


def toy_server(deployment: str, artifacts: Path, root: Path, directory: Path) -> Iterator[Toys]:
    """Serve the rendering of a GPU deployment with the tokenizer of the default one and toys for engines."""
    fewer = ["runtime.bls_instances=2", "runtime.preprocessing_instances=1"]
    embedded = load_deployment(DEFAULT, ["runtime.ports=auto"], root=root)
    spec = load_deployment(deployment, fewer, root=root)
    model = str(artifacts / "model")
    locations = Locations(
        engine_dir="/nowhere", tokenizer_dir=model, draft_engine_dir="/nowhere", draft_tokenizer_dir=model
    )
    repository, log = directory / "model_repository", directory / "calls"
    repository.mkdir()
    log.touch()
    render_repository(spec, locations, repository, silent)
    put_toys(repository, log)
    with serving(embedded, repository, directory / "run", silent) as deployed:
        where = deployed.server.endpoints
        workspace = Workspace(directory=directory)
        served = Served(where.http, where.grpc, where.metrics, workspace, deployed.server.process.pid)
        yield Toys(served, log, Tokenizer.load(artifacts / "model"))


def put_toys(repository: Path, log: Path) -> None:
    """Exchange the engines; nothing else of the rendering is touched but the context that BLS is told of."""
    for name, role in ((TARGET, "target"), (DRAFT, "draft")):
        path = repository / name / "config.pbtxt"
        if not path.exists():
            continue
        config = read_config(path)
        config.backend = "python"
        settings = {"toy_role": role, "toy_log": str(log), "toy_max_seq_len": str(MAX_SEQ_LEN)}
        for key, value in (settings | {"toy_max_draft_len": "0" if role == "draft" else "5"}).items():
            config.parameters[key].string_value = value
        path.write_text(to_text(config))
        shutil.copy(TOY, path.parent / "1" / "model.py")
    bls = read_config(repository / BLS / "config.pbtxt")
    bls.parameters["slipstream_max_seq_len"].string_value = str(MAX_SEQ_LEN)
    (repository / BLS / "config.pbtxt").write_text(to_text(bls))


def test_the_server_loads_the_six_models_of_a_pair(toys: Toys) -> None:
    from tritonclient.grpc import InferenceServerClient

    with InferenceServerClient(toys.served.grpc) as client:
        for model in ("preprocessing", TARGET, DRAFT, "postprocessing", "ensemble", BLS):
            assert client.is_model_ready(model), model
    assert text([infer(toys.served, "ensemble", text_input=PROMPT, max_tokens=9)]) == toys.plain(max_tokens=9)


@pytest.mark.parametrize("right", RIGHT)
@pytest.mark.parametrize("max_tokens", [1, 2, 3, 4, 5, 8, 9, 60])
def test_the_text_is_what_the_target_writes_alone(toys: Toys, right: float, max_tokens: int) -> None:
    for drafts in (1, 3, 5):
        found = toys.speculated(right=right, drafts=drafts, max_tokens=max_tokens, **NO_END)
        assert found == toys.plain(max_tokens=max_tokens, **NO_END)


@pytest.mark.parametrize("right", RIGHT)
def test_the_end_id_ends_it_where_it_ends_the_target(toys: Toys, right: float) -> None:
    lengths = set()
    for number in range(12):
        prompt = f"{PROMPT} {number}"
        alone = toys.plain(text_input=prompt, max_tokens=80)
        assert toys.speculated(right=right, text_input=prompt, max_tokens=80) == alone
        lengths.add(len(toys.tokenizer.encode(alone)) - len(toys.tokenizer.encode(prompt)))
    assert len(lengths) > 3  # it did end, in several places
    assert min(lengths) < 80


@pytest.mark.parametrize("min_tokens", [30, 79])
def test_the_end_id_is_masked_for_as_many_tokens_as_the_request_says(toys: Toys, min_tokens: int) -> None:
    for number in range(6):
        prompt = {"text_input": f"{PROMPT} {number}", "max_tokens": 80, "min_tokens": min_tokens}
        assert toys.speculated(right=0.5, **prompt) == toys.plain(**prompt)


@pytest.mark.parametrize("right", RIGHT)
def test_a_stop_word_ends_it_also_within_a_step(toys: Toys, right: float) -> None:
    tried = 0
    for token in toys.output_ids(24)[:18]:
        word = toys.tokenizer.decode([token])
        if toys.tokenizer.encode(word, add_special_tokens=False) == [token]:
            tried += 1
            alone = toys.plain(max_tokens=40, stop_words=word, **NO_END)
            assert toys.speculated(right=right, max_tokens=40, stop_words=[word, "\n\n"], **NO_END) == alone
            assert alone.endswith(word)
    assert tried > 4


def test_the_output_stays_within_the_context(toys: Toys) -> None:
    found = toys.response(drafts=5, max_tokens=2**31 - 1, return_num_output_tokens=True, **NO_END)
    assert found["num_output_tokens"].item() == MAX_SEQ_LEN
    assert text([found]) == toys.plain(max_tokens=2**31 - 1, **NO_END)
    long = toys.tokenizer.decode(toys.tokenizer.encode(PROMPT) * 40)
    with pytest.raises(Exception, match="max_seq_len is 120"):
        toys.response(text_input=long, max_tokens=2)


def test_each_engine_is_asked_as_upstream_asks_it(toys: Toys) -> None:
    toys.response(drafts=3, max_tokens=10, seed=41, top_k=4, bad_words="x", stop_words="zz", **NO_END)
    drafts, targets = toys.calls("draft"), toys.calls("target")
    prompt = len(toys.tokenizer.encode(PROMPT))
    # 10 tokens: three, and one of the target's own, twice; then one that leaves room for the last.
    assert [call["request_output_len"] for call in drafts] == [3, 3, 1]
    assert [call["min_tokens"] for call in drafts] == [3, 3, 1]
    assert [call["request_output_len"] for call in targets] == [4, 4, 2]
    assert [len(call["draft_input_ids"]) for call in targets] == [3, 3, 1]
    for calls in (drafts, targets):
        assert [call["input_lengths"] for call in calls] == [prompt, prompt + 4, prompt + 8]
        assert [len(call["input_ids"]) for call in calls] == [prompt, prompt + 4, prompt + 8]
        assert [call["seed"] for call in calls] == [41, 45, 49]
        for call in calls:
            assert (call["exclude_input_in_output"], call["streaming"]) == (False, False)
            assert {"end_id", "pad_id", "runtime_top_k", "bad_words_list", "stop_words_list"} <= set(call)
    assert "min_tokens" not in targets[0]


def test_what_is_the_targets_own_does_not_reach_the_draft(toys: Toys) -> None:
    lora = {"lora_task_id": np.array([[9]], np.uint64)}
    toys.response(max_tokens=6, return_log_probs=True, return_perf_metrics=True, **lora, **NO_END)
    assert all(call["lora_task_id"] == 9 for call in toys.calls("target"))
    assert not [call for call in toys.calls("draft") if {"lora_task_id", "return_perf_metrics"} & set(call)]


def test_draft_logits_travel_with_the_draft(toys: Toys) -> None:
    alone = toys.plain(max_tokens=18, **NO_END)
    for right in RIGHT:
        assert toys.speculated(right=right, max_tokens=18, use_draft_logits=True, seed=5, **NO_END) == alone
        lengths = [len(call.get("draft_input_ids", [])) for call in toys.calls("target")]
        shapes = [call.get("logits_shape") for call in toys.calls("target")]
        assert shapes == [[1, length, 1408] if length else None for length in lengths]
        assert lengths[0] == 3
    drafts, targets = toys.calls("draft"), toys.calls("target")
    assert all(call["return_generation_logits"] is True for call in drafts)
    # Acceptance by chance must not repeat the draws that made the draft.
    assert drafts[0]["seed"] != targets[0]["seed"] == 5
    toys.response(max_tokens=5)
    assert "return_generation_logits" not in toys.calls("draft")[0]


@pytest.mark.parametrize(("right", "rate"), [(0.0, 0.0), (1.0, 1.0)])
def test_figures_are_of_the_whole_request(toys: Toys, right: float, rate: float) -> None:
    found = toys.response(right=right, drafts=3, max_tokens=16, return_perf_metrics=True, **NO_END)
    steps = len(toys.calls("target"))
    drafted = sum(call["request_output_len"] for call in toys.calls("draft"))
    assert found["acceptance_rate"].item() == rate
    assert found["total_draft_tokens"].item() == drafted
    assert found["total_accepted_draft_tokens"].item() == rate * drafted
    assert steps == (4 if right else 16)
    blocks = [found[f"kv_cache_{name}_blocks"].item() for name in ("alloc_new", "reused", "alloc_total")]
    assert blocks == [steps, 2 * steps, 3 * steps]
    times = [found[f"{name}_time_ns"].item() for name in ("arrival", "first_scheduled", "first_token", "last_token")]
    assert times == sorted(times)
    assert times[3] - times[2] > 1  # from the first step to the last, where one step of a toy takes 1
    assert {found[name].dtype.name for name in found if name.endswith("blocks")} == {"int32"}
    assert {found[name].dtype.name for name in found if name.endswith("time_ns")} == {"int64"}
    assert found["acceptance_rate"].dtype == np.float32
    assert "acceptance_rate" not in toys.response(max_tokens=4)


def test_log_probs_and_counts_are_of_the_whole_request(toys: Toys) -> None:
    wishes = {"return_log_probs": True, "return_num_input_tokens": True, "return_num_output_tokens": True}
    word = next(
        word
        for token in toys.output_ids(9)[4:]
        if toys.tokenizer.encode(word := toys.tokenizer.decode([token]), add_special_tokens=False) == [token]
    )
    for more in ({}, {"stop_words": word}):
        alone = infer(toys.served, BLS, text_input=PROMPT, stream=False, max_tokens=20, **wishes, **more, **NO_END)
        found = toys.response(right=0.5, max_tokens=20, **wishes, **more, **NO_END)
        assert found["output_log_probs"].tolist() == alone["output_log_probs"].tolist()
        assert math.isclose(found["cum_log_probs"].item(), alone["cum_log_probs"].item(), rel_tol=1e-5)
        assert found["num_input_tokens"].item() == len(toys.tokenizer.encode(PROMPT))
        ids = len(toys.tokenizer.encode(PROMPT)) + alone["output_log_probs"].size
        assert found["num_output_tokens"].item() == ids
    (only,) = toys.response(max_tokens=20, exclude_input_in_output=True, **wishes, **NO_END)["num_output_tokens"]
    assert only.item() == 20


def test_the_prompt_stays_or_goes_as_the_request_says(toys: Toys) -> None:
    whole = toys.speculated(max_tokens=8, **NO_END)
    assert whole.startswith(PROMPT)
    assert toys.speculated(max_tokens=8, exclude_input_in_output=False, **NO_END) == whole
    assert PROMPT + toys.speculated(max_tokens=8, exclude_input_in_output=True, **NO_END) == whole


@pytest.mark.parametrize(("fault", "said"), [(101.0, "draft"), (102.0, "target"), (103.0, "target"), (104.0, "draft")])
def test_an_error_of_either_engine_reaches_the_client(toys: Toys, fault: float, said: str) -> None:
    name = DRAFT if said == "draft" else TARGET
    with pytest.raises(Exception, match=f"{name}: the {said} is out of luck"):
        toys.response(max_tokens=30, length_penalty=fault, **NO_END)
    assert toys.speculated(max_tokens=5) == toys.plain(max_tokens=5)


def test_an_engine_that_does_not_give_what_speculation_needs_is_named(toys: Toys) -> None:
    with pytest.raises(Exception, match=f"{DRAFT}: gave no logits: leave use_draft_logits out"):
        toys.response(max_tokens=9, use_draft_logits=True, length_penalty=105.0)
    with pytest.raises(Exception, match=f"{DRAFT}: .* exclude_input_in_output must be false"):
        toys.response(max_tokens=9, length_penalty=106.0)


def test_a_draft_longer_than_the_engine_was_built_for_is_refused_in_the_engines_words(toys: Toys) -> None:
    with pytest.raises(Exception, match=r"tensorrt_llm: Draft tokens length \(6\) exceeds"):
        toys.response(drafts=6, max_tokens=30)


def test_a_request_that_upstream_could_not_serve_is_refused(toys: Toys) -> None:
    request = {"text_input": PROMPT, "max_tokens": 4, "num_draft_tokens": 2}
    with pytest.raises(Exception, match=r"stream is missing: .* send stream=false"):
        infer(toys.served, BLS, **request)
    with pytest.raises(Exception, match="stream is true"):
        infer(toys.served, BLS, **request, stream=True)
    two = {"text_input": np.array([[b"a"], [b"b"]], np.object_)}
    both = {name: np.array([[value]] * 2) for name, value in (("stream", False),)}
    numbers = {name: np.array([[2]] * 2, np.int32) for name in ("max_tokens", "num_draft_tokens")}
    with pytest.raises(Exception, match=r"2 prompts|num_draft_tokens has 2 elements"):
        infer(toys.served, BLS, **two, **both, **numbers)


def test_without_draft_tokens_the_target_writes_alone(toys: Toys) -> None:
    for wishes in ({}, {"num_draft_tokens": 0}, {"num_draft_tokens": 0, "use_draft_logits": True}):
        toys.plain(max_tokens=7, **wishes, **NO_END)
        assert (len(toys.calls("target")), len(toys.calls("draft"))) == (1, 0)
        assert toys.calls("target")[0]["request_output_len"] == 7
        assert not {"draft_input_ids", "num_draft_tokens", "use_draft_logits"} & set(toys.calls("target")[0])


def test_a_client_that_goes_away_stops_the_loop(toys: Toys) -> None:
    slow = {"presence_penalty": 0.2, "max_tokens": 90, "num_draft_tokens": 3, "temperature": 0.0, "stream": False}
    before = toys.log.read_text().count("\n")
    pending = Pending(toys.served, BLS, text_input=PROMPT, **slow, **NO_END)
    while toys.log.read_text().count("\n") < before + 3:
        time.sleep(0.01)
    pending.cancel()
    time.sleep(0.6)
    done = len(toys.calls("draft")) + len(toys.calls("target"))
    assert done < 9
    time.sleep(0.6)
    assert len(toys.calls("draft")) + len(toys.calls("target")) == done
    assert toys.speculated(max_tokens=5) == toys.plain(max_tokens=5)


def test_many_requests_at_once_keep_their_own_texts(toys: Toys) -> None:
    prompts = [f"{PROMPT} {number}" for number in range(32)]
    alone = [toys.plain(text_input=prompt, max_tokens=80, **NO_END) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda prompt: toys.speculated(right=0.0, text_input=prompt, max_tokens=80, **NO_END), prompts)
        assert list(found) == alone


@pytest.mark.parametrize("model", ["ensemble", BLS])
def test_a_stream_of_an_engine_that_is_not_ours_ends_without_an_error(streaming_toys: Toys, model: str) -> None:
    """TensorRT-LLM's engine knows nothing of the trailer by which ours marks its last response."""
    streamed = ask(streaming_toys.served, model, text_input=PROMPT, max_tokens=9, stream=True, **NO_END)
    whole = ask(streaming_toys.served, model, text_input=PROMPT, max_tokens=9, exclude_input_in_output=True, **NO_END)
    assert len(streamed) > 4
    assert text(streamed) == text(whole)
    assert text(whole)
