"""How much of the bare engine's throughput arrives at a client, on every way through the server.

All ways take turns in one run, so that a machine that is shared with others disturbs all of them alike; ratios are
taken round by round and their median is reported. Prompts differ in every run: a reused prefix would flatter whoever
comes second. One server for each stream interval runs meanwhile; those that nobody asks anything take no time.
"""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from slipstream.backend.parameters import PipelineSettings
from slipstream.perf.bare_engine import BareEngine, Run
from slipstream.perf.fresh_prompts import FreshPrompts
from slipstream.perf.served_paths import SERVED_PATHS, Prompt, ServedPaths
from slipstream.pipeline import Context, run_stage, stages_for
from slipstream.progress import Reporter
from slipstream.project import Workspace
from slipstream.serve.supervise import served
from slipstream.spec_file import load_deployment
from slipstream.text.tokenizer import Tokenizer

BARE = "bare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of each path, so many times."""

    prompt_tokens: int
    output_tokens: int
    streams: int
    intervals: tuple[str, ...]  # values of runtime.stream_interval
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadRow:
    """One path under one load, over all rounds."""

    prompt_tokens: int
    streams: int
    path: str
    stream_interval: str  # "" for the bare engine
    tokens_per_s: float
    ratio_to_bare: float
    ratio_min: float
    ratio_max: float
    tokens_per_response: float
    server_cpu_us_per_response: int  # of all its processes save the one that runs the engine
    client_cpu_us_per_response: int
    ttft_p50_ms: float
    ttft_added_ms: float


def full_loads(rounds: int) -> list[Load]:
    """The table of docs/serving-performance.md; about 11 minutes at three rounds on a quiet machine of two cores."""
    short = [
        Load(
            prompt_tokens=64,
            output_tokens=64,
            streams=streams,
            intervals=("1", "4", "auto") if streams == 32 else ("1", "4"),
            rounds=rounds,
        )
        for streams in (1, 4, 16, 32, 64)
    ]
    long = [
        Load(prompt_tokens=512, output_tokens=32, streams=streams, intervals=("1",), rounds=max(2, rounds // 2))
        for streams in (1, 4, 16, 32, 64)
    ]
    return short + long


def quick_loads() -> list[Load]:
    """Two small ones, to try the command."""
    return [
        Load(prompt_tokens=64, output_tokens=24, streams=streams, intervals=("1", "4", "auto"), rounds=1)
        for streams in (1, 8)
    ]


def measure_overhead(
    context: Context, text: str, loads: Sequence[Load], rounds_of_warming: int, report: Reporter
) -> list[OverheadRow]:
    """One row for each load and path; serves the deployment meanwhile, once for each stream interval."""
    tokenizer = Tokenizer.load(context.workspace.model)
    prompts = FreshPrompts(tokenizer, text)
    with ExitStack() as stack:
        servers = {
            interval: stack.enter_context(_served_with(context, interval, tokenizer, report))
            for interval in sorted({interval for load in loads for interval in load.intervals})
        }
        bare = stack.enter_context(BareEngine(engine_settings(context)))
        paths = _Paths(bare, servers)
        warming = Load(prompt_tokens=64, output_tokens=8, streams=4, intervals=tuple(servers), rounds=rounds_of_warming)
        _take_turns(paths, prompts, warming, report)
        rows = []
        for load in loads:
            rows += _rows(load, _take_turns(paths, prompts, load, report))
    return rows


@contextmanager
def _served_with(context: Context, interval: str, tokenizer: Tokenizer, report: Reporter) -> Iterator[ServedPaths]:
    """A server of the same artifacts, as hard links, with a stream interval of its own."""
    original = context.workspace.directory
    directory = original.parent / f".{original.name}-interval-{interval}"
    shutil.rmtree(directory, ignore_errors=True)
    ignored = shutil.ignore_patterns("run", ".lock*")
    shutil.copytree(original, directory, copy_function=os.link, ignore=ignored)
    try:
        overrides = ("runtime.ports=auto", f"runtime.stream_interval={interval}")
        spec = load_deployment(context.spec.name, overrides, root=context.root)
        own = Context(spec=spec, root=context.root, workspace=Workspace(directory=directory))
        run_stage(stages_for(spec)[-1], own, report)
        with served(spec, own.workspace.model_repository, own.workspace.run, report) as deployment:
            server = deployment.server
            yield ServedPaths(server.endpoints.grpc, server.process.pid, tokenizer)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Way:
    path: str
    interval: str


@dataclass(frozen=True, slots=True)
class _Paths:
    bare: BareEngine
    servers: dict[str, ServedPaths]

    def run(self, way: _Way, prompts: Sequence[Prompt], tokens: int) -> Run:
        if way.path == BARE:
            return self.bare.run([ids for _, ids in prompts], tokens)
        return self.servers[way.interval].run(way.path, prompts, tokens)


def _take_turns(paths: _Paths, prompts: FreshPrompts, load: Load, report: Reporter) -> dict[_Way, list[Run]]:
    ways = [_Way(BARE, ""), *(_Way(path, interval) for interval in load.intervals for path in SERVED_PATHS)]
    measured: dict[_Way, list[Run]] = {way: [] for way in ways}
    for round_number in range(load.rounds):
        turn = round_number % len(ways)
        for way in (*ways[turn:], *ways[:turn]):
            what = f"{load.prompt_tokens}-token prompts, {load.streams} streams, {way.path} {way.interval}"
            report(what, round_number / load.rounds)
            result = paths.run(way, prompts.take(load.streams, load.prompt_tokens), load.output_tokens)
            if result.tokens != load.streams * load.output_tokens:
                raise RuntimeError(f"{what}: {result.tokens} tokens came, not {load.streams * load.output_tokens}")
            measured[way].append(result)
    return measured


def _rows(load: Load, measured: dict[_Way, list[Run]]) -> list[OverheadRow]:
    bare = measured[_Way(BARE, "")]
    return [_row(load, way, runs, bare) for way, runs in measured.items()]


def _row(load: Load, way: _Way, runs: Sequence[Run], bare: Sequence[Run]) -> OverheadRow:
    pairs = list(zip(runs, bare, strict=True))
    ratios = [_speed(run) / _speed(yardstick) for run, yardstick in pairs]
    server_us = [1e6 * run.cpu_s / run.responses for run in runs]
    return OverheadRow(
        prompt_tokens=load.prompt_tokens,
        streams=load.streams,
        path=way.path,
        stream_interval=way.interval,
        tokens_per_s=round(statistics.median(map(_speed, runs)), 1),
        ratio_to_bare=round(statistics.median(ratios), 3),
        ratio_min=round(min(ratios), 3),
        ratio_max=round(max(ratios), 3),
        tokens_per_response=round(sum(run.tokens for run in runs) / sum(run.responses for run in runs), 2),
        server_cpu_us_per_response=round(statistics.median(server_us)),
        client_cpu_us_per_response=round(statistics.median(1e6 * run.client_cpu_s / run.responses for run in runs)),
        ttft_p50_ms=round(statistics.median(run.ttft_p50_ms for run in runs), 1),
        ttft_added_ms=round(statistics.median(run.ttft_p50_ms - other.ttft_p50_ms for run, other in pairs), 1),
    )


def _speed(run: Run) -> float:
    return run.tokens / run.wall_s


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


def overhead_table(rows: Sequence[OverheadRow]) -> str:
    """The rows as Markdown."""
    head = (
        "| prompt | streams | path | interval | tok/s | of the bare engine | tokens a response | server us a response |"
        " client us a response | TTFT p50, ms | added, ms |"
    )
    lines = [head, "|---" * 11 + "|"]
    for row in rows:
        ratio = f"{row.ratio_to_bare:.2f} ({row.ratio_min:.2f}-{row.ratio_max:.2f})"
        bare = row.path == BARE
        lines.append(
            f"| {row.prompt_tokens} | {row.streams} | {row.path} | {row.stream_interval} | {row.tokens_per_s:.0f} |"
            f" {'' if bare else ratio} | {'' if bare else row.tokens_per_response} |"
            f" {'' if bare else row.server_cpu_us_per_response} | {'' if bare else row.client_cpu_us_per_response} |"
            f" {row.ttft_p50_ms:.0f} | {'' if bare else row.ttft_added_ms} |"
        )
    return "\n".join(lines)
