"""A KV cache too small for all, requests whose time is up, and a step loop that hangs, on a real tritonserver."""

from __future__ import annotations

import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from slipstream.text.tokenizer import Tokenizer
from tests.conftest import Served, serve_copy
from tests.integration.triton_calls import (
    PROMPT,
    Stream,
    active_requests,
    ask,
    prompt_of,
    text,
    token_ids,
    wait_for_active,
)

ENGINE = "tensorrt_llm"
PATHS = ("ensemble", "tensorrt_llm_bls", ENGINE)
KV_TOKENS = 512  # 16 blocks
STEP_TIMEOUT_S = 6


@pytest.fixture(scope="module")
def tight(artifacts: Path) -> Iterator[Served]:
    """A server whose KV cache holds three of the requests below to their end, and begins more."""
    overrides = (
        "runtime.execution=accuracy",
        f"runtime.kv_cache_tokens={KV_TOKENS}",
        "runtime.batch_scheduler_policy=max_utilization",
        f"runtime.step_timeout_s={STEP_TIMEOUT_S}",
    )
    with serve_copy(artifacts, "tight", *overrides) as server:
        yield server


@pytest.fixture(scope="module")
def tokenizer(tight: Served) -> Tokenizer:
    return Tokenizer.load(tight.model_dir)


def a_request(model: str, tokenizer: Tokenizer, tokens: int, prompt: str = PROMPT) -> dict[str, Any]:
    if model == ENGINE:
        return {**prompt_of(tokenizer.encode(prompt), tokens), "streaming": True}
    return {"text_input": prompt, "max_tokens": tokens, "stream": True, "end_id": -1}


def gauge(served: Served, value: str) -> float:
    metrics = urllib.request.urlopen(f"http://{served.metrics}/metrics").read().decode()
    found = re.search(rf'nv_trt_llm_\w+\{{[^}}]*="{value}"[^}}]*\}} (\S+)', metrics)
    assert found is not None
    return float(found.group(1))


def wait_until_idle(served: Served) -> None:
    deadline = time.monotonic() + 20
    while active_requests(served) or gauge(served, "used"):
        assert time.monotonic() < deadline, "requests or KV blocks are left"
        time.sleep(0.02)


def test_more_demand_than_room_pauses_requests_and_gives_each_its_text(tight: Served, tokenizer: Tokenizer) -> None:
    prompts = [f"{number} is a number, and the next one is" for number in range(8)]
    alone = [token_ids(ask(tight, ENGINE, **a_request(ENGINE, tokenizer, 140, prompt))) for prompt in prompts[:2]]
    streams = [Stream(tight) for _ in prompts]
    for stream, prompt in zip(streams, prompts, strict=True):
        stream.start(ENGINE, **a_request(ENGINE, tokenizer, 140, prompt))
    wait_for_active(tight, len(streams))
    paused = waiting = 0.0
    while active_requests(tight):
        paused, waiting = max(paused, gauge(tight, "paused_requests")), max(waiting, gauge(tight, "waiting"))
        time.sleep(0.02)
    together = [token_ids(stream.rest()) for stream in streams]
    for stream in streams:
        stream.close()
    assert [len(ids) for ids in together] == [140] * len(prompts)
    assert together[:2] == alone
    assert paused > 0
    assert waiting > 0


@pytest.mark.parametrize("model", PATHS)
def test_what_could_never_fit_is_refused_with_the_numbers(tight: Served, tokenizer: Tokenizer, model: str) -> None:
    said = "which takes 1[78] KV blocks of 32 tokens, the KV cache has 16"
    with pytest.raises(Exception, match=said):
        ask(tight, model, **a_request(model, tokenizer, KV_TOKENS + 16))
    assert ask(tight, model, **a_request(model, tokenizer, 2))


@pytest.mark.parametrize("model", PATHS)
@pytest.mark.parametrize("prompt", [PROMPT, "word " * 3000], ids=["fits", "too long"])
def test_a_prompt_over_the_limit_is_refused_and_the_next_is_served(
    tight: Served, tokenizer: Tokenizer, model: str, prompt: str
) -> None:
    if prompt != PROMPT:
        with pytest.raises(Exception, match=r"the prompt has 300[01] tokens, the limit max_input_len is 2047"):
            ask(tight, model, **a_request(model, tokenizer, 4, prompt))
    assert ask(tight, model, **a_request(model, tokenizer, 2))


@pytest.mark.parametrize("model", PATHS)
def test_a_request_past_its_timeout_ends_with_an_error_and_frees_its_blocks(
    tight: Served, tokenizer: Tokenizer, model: str
) -> None:
    stream = Stream(tight)
    stream.start(model, timeout_us=400_000, **a_request(model, tokenizer, 480))
    with pytest.raises(Exception, match=r"its timeout of 0\.4 s"):
        stream.rest()
    stream.close()
    wait_until_idle(tight)


def test_a_request_that_waits_past_its_timeout_is_told_so(tight: Served, tokenizer: Tokenizer) -> None:
    running, waiting = Stream(tight), Stream(tight)
    running.start(ENGINE, **a_request(ENGINE, tokenizer, 300, "a " * 150))
    running.next()
    waiting.start(ENGINE, timeout_us=300_000, **a_request(ENGINE, tokenizer, 32, "b " * 440))
    with pytest.raises(Exception, match=r"timeout of 0\.3 s, it was waiting for the engine"):
        waiting.rest()
    for stream in (running, waiting):
        stream.close()
    wait_until_idle(tight)


def test_a_step_loop_that_hangs_is_replaced_within_its_time(tight: Served, tokenizer: Tokenizer) -> None:
    stream = Stream(tight)
    stream.start(ENGINE, **a_request(ENGINE, tokenizer, 480))
    stream.next()
    hung = next(
        child
        for child in psutil.Process(tight.pid).children(recursive=True)
        if "slipstream.backend.step_loop" in child.cmdline()
    )
    stopped = time.monotonic()
    hung.send_signal(signal.SIGSTOP)
    with pytest.raises(Exception, match=f"made no step for {STEP_TIMEOUT_S} s and is being restarted"):
        stream.rest()
    stream.close()
    assert STEP_TIMEOUT_S - 1 <= time.monotonic() - stopped < STEP_TIMEOUT_S + 15
    for model in ("ensemble", "tensorrt_llm_bls"):
        assert text(ask(tight, model, **a_request(model, tokenizer, 4)))
    assert not hung.is_running()
