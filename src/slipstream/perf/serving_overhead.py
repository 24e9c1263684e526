"""How much of the bare engine's throughput arrives at a client: `tensorrt_llm` and `ensemble` against the bare engine.

The three take turns in one run, so that a machine that is shared with others disturbs all of them alike; ratios are
taken round by round and their median is reported. Prompts differ in every run: a reused prefix would flatter whoever
comes second.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from slipstream.backend.parameters import PipelineSettings
from slipstream.client import Sampling, TextRequest, TokenRequest
from slipstream.client.tensors import ints, raw_outputs
from slipstream.client.wire import STREAM_INFER
from slipstream.perf.bare_engine import BareEngine, Run
from slipstream.pipeline import Context
from slipstream.progress import Reporter
from slipstream.serve.supervise import served
from slipstream.text.tokenizer import Tokenizer

PATHS = ("bare", "tensorrt_llm", "ensemble")
Measured = dict[str, list[Run]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of each path."""

    streams: tuple[int, ...] = (1, 8, 32)
    prompt_tokens: int = 64
    output_tokens: int = 128
    rounds: int = 5


def measure_overhead(context: Context, text: str, load: Load, report: Reporter) -> list[dict[str, object]]:
    """One row for each number of streams and path; serves the deployment for the time of the measurement."""
    spec, workspace = context.spec, context.workspace
    prompts = _Prompts(Tokenizer.load(workspace.model), text, load.prompt_tokens)
    with (
        served(spec, workspace.model_repository, workspace.run, report) as deployment,
        BareEngine(engine_settings(context)) as bare,
    ):
        server = deployment.server
        paths = _Paths(bare, server.endpoints.grpc, server.process.pid, load.output_tokens)
        rows = []
        for streams in load.streams:
            rows += _rows(streams, _take_turns(paths, prompts, streams, load, report))
    return rows


class _Prompts:
    """Prompts of an exact length that no earlier run has had."""

    def __init__(self, tokenizer: Tokenizer, text: str, tokens: int) -> None:
        self._tokenizer = tokenizer
        self._ids = tokenizer.encode(text, add_special_tokens=False)
        self._tokens = tokens
        self._next = 0

    def take(self, count: int) -> list[tuple[str, list[int]]]:
        """As text and as ids. A number in front makes each new; windows that tokenize otherwise are passed over."""
        taken: list[tuple[str, list[int]]] = []
        while len(taken) < count:
            number = self._tokenizer.encode(f"{self._next:06d}\n", add_special_tokens=False)
            start = (self._next * 37) % (len(self._ids) - self._tokens)
            ids = [*number, *self._ids[start : start + self._tokens - len(number)]]
            self._next += 1
            prompt = self._tokenizer.decode(ids)
            if self._tokenizer.encode(prompt, add_special_tokens=False) == ids:
                taken.append((prompt, ids))
        return taken


@dataclass(frozen=True, slots=True)
class _Paths:
    bare: BareEngine
    grpc: str
    triton_pid: int
    output_tokens: int

    def run(self, path: str, prompts: Sequence[tuple[str, list[int]]]) -> Run:
        if path == "bare":
            return self.bare.run([ids for _, ids in prompts], self.output_tokens)
        return self._run_served(path, prompts)

    def _run_served(self, path: str, prompts: Sequence[tuple[str, list[int]]]) -> Run:
        messages = [self._request(path, text, ids).message().SerializeToString() for text, ids in prompts]
        server = [psutil.Process(self.triton_pid), *psutil.Process(self.triton_pid).children(recursive=True)]
        client = [psutil.Process()]
        server_s, client_s, started = _cpu_s(server), _cpu_s(client), time.monotonic()
        replies = asyncio.run(_collect(self.grpc, messages))
        wall_s, client_s, server_s = time.monotonic() - started, _cpu_s(client) - client_s, _cpu_s(server) - server_s
        tokens = [count for reply in replies for message in reply if (count := _tokens_in(message))]
        return Run(tokens=sum(tokens), responses=len(tokens), wall_s=wall_s, cpu_s=server_s, client_cpu_s=client_s)

    def _request(self, path: str, text: str, ids: list[int]) -> TextRequest | TokenRequest:
        forced = Sampling(min_tokens=self.output_tokens)
        if path == "ensemble":
            return TextRequest(prompt=text, max_tokens=self.output_tokens, sampling=forced)
        return TokenRequest(input_ids=tuple(ids), max_tokens=self.output_tokens, sampling=forced)


async def _collect(grpc: str, messages: Sequence[bytes]) -> list[list[bytes]]:
    """Every stream's responses, unread: reading them is no part of what is measured."""
    from grpc import aio

    async with aio.insecure_channel(grpc) as channel:
        infer = channel.unary_stream(STREAM_INFER)

        async def read(message: bytes) -> list[bytes]:
            call, responses = infer(message), []
            while (response := await call.read()) is not aio.EOF:
                responses.append(response)
            return responses

        return await asyncio.gather(*map(read, messages))


def _tokens_in(message: bytes) -> int:
    from tritonclient.grpc import service_pb2

    response = service_pb2.ModelStreamInferResponse.FromString(message)
    if response.error_message:
        raise RuntimeError(response.error_message)
    outputs = raw_outputs(response.infer_response)
    counts = ints(outputs.get("num_output_tokens", b"")) or ints(outputs.get("sequence_length", b""))
    return counts[0] if counts else 0


def _take_turns(paths: _Paths, prompts: _Prompts, streams: int, load: Load, report: Reporter) -> Measured:
    measured: Measured = {path: [] for path in PATHS}
    for round_number in range(-1, load.rounds):  # round -1 warms up
        turn = round_number % len(PATHS)
        for path in (*PATHS[turn:], *PATHS[:turn]):
            report(f"{streams} streams, {path}", (round_number + 1) / (load.rounds + 1))
            result = paths.run(path, prompts.take(streams))
            if result.tokens != streams * load.output_tokens:
                raise RuntimeError(f"{path} gave {result.tokens} tokens, {streams * load.output_tokens} were asked for")
            if round_number >= 0:
                measured[path].append(result)
    return measured


def _rows(streams: int, measured: Measured) -> list[dict[str, object]]:
    bare = measured["bare"]
    rows: list[dict[str, object]] = []
    for path in PATHS:
        runs = measured[path]
        pairs = list(zip(runs, bare, strict=True))
        ratios = [_speed(run) / _speed(yardstick) for run, yardstick in pairs]
        server_us = [1e6 * (run.cpu_s - yardstick.cpu_s) / run.responses for run, yardstick in pairs]
        rows.append(
            {
                "streams": streams,
                "path": path,
                "tokens_per_s": round(statistics.median(map(_speed, runs)), 1),
                "ratio_to_bare": round(statistics.median(ratios), 3),
                "ratio_min": round(min(ratios), 3),
                "ratio_max": round(max(ratios), 3),
                "tokens_per_response": round(sum(run.tokens for run in runs) / sum(run.responses for run in runs), 3),
                "server_cpu_us_per_response_beyond_bare": round(statistics.median(server_us)),
                "client_cpu_us_per_response": round(
                    statistics.median(1e6 * run.client_cpu_s / run.responses for run in runs)
                ),
            }
        )
    return rows


def _speed(run: Run) -> float:
    return run.tokens / run.wall_s


def _cpu_s(family: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in family)


def engine_settings(context: Context) -> PipelineSettings:
    """The engine's settings, as the rendered model has them."""
    engine, runtime = context.spec.engine, context.spec.runtime
    return PipelineSettings(
        engine_dir=Path(context.workspace.engine),
        execution=runtime.execution,
        kv_cache_gib=runtime.kv_cache_gib,
        max_batch_size=engine.max_batch_size,
        max_num_tokens=engine.max_num_tokens,
        enable_kv_cache_reuse=runtime.enable_kv_cache_reuse,
        enable_chunked_context=runtime.enable_chunked_context,
    )
