"""Requests that are wrong, many or large, and a server that dies: one clear answer each, and no process is left."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import silent
from slipstream.serve.supervise import served as serving
from tests.conftest import Served, a_context, copy_artifacts
from tests.integration.triton_calls import PROMPT, Stream, ask, text

TEXT_MODELS = ("ensemble", "tensorrt_llm_bls")
NUM_STREAMS = 200  # the engine holds 32


def generate(served: Served, model: str, **changes: Any) -> str:
    return text(ask(served, model, **{"text_input": PROMPT, "max_tokens": 4, "stream": True, **changes}))


@pytest.mark.parametrize("model", TEXT_MODELS)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text_input": ""}, "text_input is empty"),
        ({"text_input": b"a\xff"}, "text_input is not UTF-8: invalid start byte at byte 1"),
        ({"text_input": b"a\xed\xa0\x80"}, "text_input is not UTF-8"),  # a lone surrogate
        ({"stop_words": b"\xff"}, "stop_words is not UTF-8"),
        ({"bad_words": b"\xff"}, "bad_words is not UTF-8"),
        ({"bad_words": "x" * 301}, "bad_words_list: the words have 301 characters, the limit is 300"),
        ({"max_tokens": 0}, "max_tokens is 0, it must be at least 1"),
        ({"max_tokens": -(2**31)}, "max_tokens is -2147483648"),
        ({"end_id": 10**6}, "end_id holds 1000000, the vocabulary has ids 0 to 49151"),
        ({"temperature": float("nan"), "top_k": 5}, "temperature is nan"),
        ({"text_input": "word " * 200_000}, "the prompt has 200001 tokens, the limit max_input_len is 2047"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_a_wrong_request_gets_one_clear_error_and_the_next_is_served(
    served: Served, model: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(Exception, match=said):
        generate(served, model, **changes)
    assert generate(served, model)


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_a_nul_is_a_character_and_a_huge_limit_is_no_error(served: Served, model: str) -> None:
    assert generate(served, model, text_input="a\0b")
    assert generate(served, model, max_tokens=2**31 - 1, stop_words=["\n", "."])


def test_many_streams_at_once_all_come_whole_and_in_order(served: Served) -> None:
    streams = [Stream(served) for _ in range(NUM_STREAMS)]
    for number, stream in enumerate(streams):
        wishes = {"stream": True, "return_log_probs": True, "end_id": -1}
        stream.start(TEXT_MODELS[number % 2], text_input=f"Count: {number},", max_tokens=8, **wishes)
    for stream in streams:
        total, tokens = 0.0, 0
        for response in stream.rest():
            total += float(response["output_log_probs"].sum()) if "output_log_probs" in response else 0.0
            tokens += response["output_log_probs"].size if "output_log_probs" in response else 0
            if "cum_log_probs" in response:
                assert response["cum_log_probs"].item() == pytest.approx(total, abs=1e-3), "out of order"
        assert tokens == 8
        stream.close()


@pytest.fixture(scope="module")
def own(artifacts: Path) -> Iterator[Served]:
    """A server that a test may kill; its engine runs two requests at once, and its BLS model accumulates tokens."""
    context = a_context(copy_artifacts(artifacts, "own"), "runtime.ports=auto", "engine.max_batch_size=2")
    run_stage(stages_for(context.spec)[-1], context, silent)
    workspace = context.workspace
    accumulate(workspace.model_repository / TEXT_MODELS[1] / "config.pbtxt")
    with serving(context.spec, workspace.model_repository, workspace.run, silent) as deployment:
        where = deployment.server.endpoints
        yield Served(where.http, where.grpc, where.metrics, workspace, deployment.server.process.pid)


def accumulate(config: Path) -> None:
    """Set accumulate_tokens, which no field of a deployment sets."""
    rendered = config.read_text(encoding="utf-8")
    changed = re.sub(r'(key: "accumulate_tokens"\s+value \{\s+string_value: )"false"', r'\1"true"', rendered)
    assert changed != rendered
    config.unlink()  # it may be a hard link to the artifact that other tests serve
    config.write_text(changed, encoding="utf-8")


def test_a_third_request_begins_when_one_of_two_has_ended(own: Served) -> None:
    streams = [Stream(own) for _ in range(3)]
    for stream in streams:
        stream.start(TEXT_MODELS[1], text_input=PROMPT, max_tokens=40, stream=True, end_id=-1, return_perf_metrics=True)
    ends = [stream.rest()[-1] for stream in streams]
    for stream in streams:
        stream.close()
    began = sorted(end["first_token_time_ns"].item() for end in ends)
    ended = sorted(end["last_token_time_ns"].item() for end in ends)
    assert began[1] < ended[0] <= began[2]


def test_accumulated_tokens_come_as_the_whole_text_so_far(served: Served, own: Served) -> None:
    pieces, whole = (
        [text([response]) for response in ask(server, TEXT_MODELS[1], text_input=PROMPT, max_tokens=8, stream=True)]
        for server in (served, own)
    )
    assert len(pieces) > 1
    assert whole[-1] == "".join(pieces)
    assert all(later.startswith(earlier) for earlier, later in pairwise(whole))


def test_the_text_so_far_is_that_of_each_sequence(own: Served) -> None:
    wishes = {"text_input": PROMPT, "stream": True, "num_return_sequences": 2, "top_k": 50, "temperature": 1.5}
    parts = ask(own, TEXT_MODELS[1], max_tokens=8, **wishes)
    for number in (0, 1):
        whole = [text([part]) for part in parts if part["sequence_index"].item() == number]
        assert len(whole) > 1
        assert all(later.startswith(earlier) for earlier, later in pairwise(whole))


def test_beams_run_where_two_requests_do(own: Served) -> None:
    """One beam search takes one of the places of `max_batch_size`, however wide it is."""
    (found,) = ask(own, TEXT_MODELS[1], text_input=PROMPT, max_tokens=4, stream=True, beam_width=5)
    assert found["text_output"].size == 5


def test_a_server_that_is_killed_leaves_no_process(own: Served) -> None:
    """The last test on this server: streams are open on all paths."""
    generate(own, TEXT_MODELS[0], guided_decoding_guide_type="regex", guided_decoding_guide="a")
    streams = [Stream(own) for _ in TEXT_MODELS]
    for model, stream in zip(TEXT_MODELS, streams, strict=True):
        stream.start(model, text_input=PROMPT, max_tokens=1500, stream=True, end_id=-1)
        stream.next()
    family = psutil.Process(own.pid).children(recursive=True)
    assert len(family) >= 6, "four stubs, the step loop and the process that tries guides out"
    os.kill(own.pid, signal.SIGKILL)
    os.waitpid(own.pid, 0)  # as the supervisor does: to the stubs an unreaped server looks alive
    _, left = psutil.wait_procs(family, timeout=60)
    for stream in streams:
        stream.close()
    assert not [process.cmdline() for process in left]
