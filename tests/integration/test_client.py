"""The client and the examples against the real tritonserver, with the real model."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

from slipstream.client import AsyncTritonClient, Completion, Sampling, TritonClient
from slipstream.errors import SlipstreamError
from slipstream.text.chat_template import ChatTemplate
from slipstream.text.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "The capital of France is"


class Served(Protocol):
    """What the session fixture offers."""

    @property
    def http(self) -> str: ...

    @property
    def grpc(self) -> str: ...

    @property
    def model_dir(self) -> Path: ...


def run_example(name: str, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, ROOT / "client" / name, *arguments],
        input=typed,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_a_streamed_reply_has_text_counts_and_times(served: Served, model: str) -> None:
    with TritonClient(served.grpc) as client:
        stream = client.stream(PROMPT, max_tokens=16, model=model)
        chunks = list(stream)
    completion = stream.completion
    assert "".join(chunk.text for chunk in chunks) == completion.text
    assert "Paris" in completion.text
    assert not completion.text.startswith(PROMPT)
    assert completion.input_tokens == len(Tokenizer.load(served.model_dir).encode(PROMPT))
    assert (completion.output_tokens, completion.finish) == (16, "length")
    assert completion.ttft_ms is not None
    assert 0 < completion.ttft_ms <= completion.total_ms


def test_the_chat_template_makes_it_answer_and_stop(served: Served) -> None:
    prompt = ChatTemplate.load(served.model_dir).render([{"role": "user", "content": "What is the capital of France?"}])
    with TritonClient(served.grpc) as client:
        completion = client.generate(prompt, max_tokens=64)
    assert "Paris" in completion.text
    assert "<|im_end|>" not in completion.text
    assert completion.finish == "stop"


def test_the_token_model_continues_ids_as_the_text_model_continues_text(served: Served) -> None:
    tokenizer = Tokenizer.load(served.model_dir)
    with TritonClient(served.grpc) as client:
        text = client.generate(PROMPT, max_tokens=12).text
        tokens = client.stream_tokens(tokenizer.encode(PROMPT), max_tokens=12, end_id=tokenizer.eos_ids[0]).finish()
    assert tokenizer.decode(tokens.token_ids) == text
    assert tokens.output_tokens == len(tokens.token_ids)


def test_a_stop_word_ends_the_reply(served: Served) -> None:
    with TritonClient(served.grpc) as client:
        whole = client.generate(PROMPT, max_tokens=24)
        word = whole.text.split()[4]
        stopped = client.generate(PROMPT, max_tokens=24, stop=(word,))
    assert whole.text.startswith(stopped.text)
    assert len(stopped.text) < len(whole.text)
    assert stopped.finish == "stop"


def test_a_seed_makes_sampling_repeatable(served_accuracy: Served) -> None:
    with TritonClient(served_accuracy.grpc) as client:
        replies = {
            client.generate(PROMPT, max_tokens=16, sampling=Sampling(temperature=1.5, top_k=50, seed=seed)).text
            for seed in (1, 1, 2, 3, 4)
        }
    assert 1 < len(replies) <= 4


def test_both_shells_give_the_same_text(served: Served) -> None:
    async def run() -> Completion:
        async with AsyncTritonClient(served.grpc) as client:
            return await client.generate(PROMPT, max_tokens=16)

    with TritonClient(served.grpc) as client:
        assert client.generate(PROMPT, max_tokens=16).text == asyncio.run(run()).text


def test_many_async_streams_all_end(served: Served) -> None:
    async def run() -> list[Completion]:
        async with AsyncTritonClient(served.grpc) as client:
            return await asyncio.gather(*(client.generate(f"Number {n} is", max_tokens=8) for n in range(48)))

    assert all(completion.output_tokens for completion in asyncio.run(run()))


def test_a_model_that_is_not_there_is_named(served: Served) -> None:
    with TritonClient(served.grpc) as client, pytest.raises(SlipstreamError, match="no model 'gpt'"):
        client.generate(PROMPT, max_tokens=4, model="gpt")


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_a_prompt_beyond_the_context_is_refused_with_the_reason(served: Served, model: str) -> None:
    with TritonClient(served.grpc, deadline_s=30) as client, pytest.raises(SlipstreamError, match=r"\d+"):
        client.generate("word " * 4000, max_tokens=4, model=model)


def test_chat_example(served: Served) -> None:
    done = run_example("chat.py", served.grpc, str(served.model_dir), typed="What is the capital of France?\n")
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    assert "TTFT" in done.stdout


def test_stream_example(served: Served) -> None:
    done = run_example("stream.py", served.grpc, PROMPT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "ttft_ms=" in done.stderr


def test_async_example(served: Served) -> None:
    done = run_example("async_stream.py", served.grpc)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" tokens\n") == 4


@pytest.mark.parametrize("name", ["triton_grpc.py", "triton_http.py"])
def test_examples_without_slipstream(served: Served, name: str) -> None:
    done = run_example(name, served.grpc if name == "triton_grpc.py" else served.http, PROMPT)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


@pytest.mark.parametrize("name", ["chat.py", "stream.py", "async_stream.py", "triton_grpc.py", "triton_http.py"])
def test_every_example_says_when_nothing_answers(name: str, artifacts: Path) -> None:
    done = run_example(name, "127.0.0.1:9", *([str(artifacts / "model")] if name == "chat.py" else []), typed="Hi\n")
    assert "Traceback" not in done.stderr
    assert "127.0.0.1:9: " in done.stdout + done.stderr


def test_examples_stay_short() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "client").glob("*.py")}
    assert len(lengths) >= 5
    assert not {name for name, lines in lengths.items() if lines >= 40}
