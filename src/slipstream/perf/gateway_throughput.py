"""Tokens a second through the gateway against those of the direct way to the same Triton, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
import psutil

from slipstream.perf.fresh_prompts import FreshPrompts
from slipstream.perf.http_load import run_requests
from slipstream.perf.served_paths import Prompt, ServedPaths
from slipstream.pipeline import Context
from slipstream.progress import Reporter
from slipstream.serve.supervise import ServedDeployment, served
from slipstream.text.tokenizer import Tokenizer
from slipstream.upstreams import gateway_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputLoad:
    """What both ways are asked in each round."""

    streams: int = 32
    prompt_tokens: int = 64
    output_tokens: int = 64
    rounds: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayThroughput:
    """Medians over the rounds; a ratio is one of two runs that followed each other."""

    load: ThroughputLoad
    direct_tokens_per_s: float
    gateway_tokens_per_s: float
    ratio: float
    ratio_min: float
    ratio_max: float
    gateway_cpu_us_per_token: float


def measure_throughput(context: Context, text: str, load: ThroughputLoad, report: Reporter) -> GatewayThroughput:
    """Serve the deployment with its gateway and ask both; the first round warms up."""
    tokenizer = Tokenizer.load(context.workspace.model)
    prompts = FreshPrompts(tokenizer, text)
    spec, workspace = context.spec, context.workspace

    configure = gateway_of(spec, root=context.root, model_dir=workspace.model)
    direct, through, cpu_us = [], [], []
    with served(spec, workspace.model_repository, workspace.run, report, gateway=configure) as deployment:
        server = deployment.server
        paths = ServedPaths(server.endpoints.grpc, server.process.pid, tokenizer)
        for number in range(load.rounds + 1):
            report(f"round {number} of {load.rounds}", number / (load.rounds + 1))
            run = paths.run("tensorrt_llm", prompts.take(load.streams, load.prompt_tokens), load.output_tokens)
            taken = _through(deployment, prompts.take(load.streams, load.prompt_tokens), load)
            if number:
                direct.append(run.tokens / run.wall_s)
                through.append(taken.tokens_per_s)
                cpu_us.append(taken.cpu_us_per_token)
    ratios = [one / other for one, other in zip(through, direct, strict=True)]
    return GatewayThroughput(
        load=load,
        direct_tokens_per_s=round(statistics.median(direct), 1),
        gateway_tokens_per_s=round(statistics.median(through), 1),
        ratio=round(statistics.median(ratios), 3),
        ratio_min=round(min(ratios), 3),
        ratio_max=round(max(ratios), 3),
        gateway_cpu_us_per_token=round(statistics.median(cpu_us), 1),
    )


def throughput_table(found: GatewayThroughput) -> str:
    """As docs/gateway-performance.md shows it."""
    cells = (
        f"{found.load.streams}",
        f"{found.direct_tokens_per_s:.0f}",
        f"{found.gateway_tokens_per_s:.0f}",
        f"{found.ratio:.2f} ({found.ratio_min:.2f}–{found.ratio_max:.2f})",
        f"{found.gateway_cpu_us_per_token:.0f} µs",
    )
    head = "| streams | direct, tok/s | through the gateway | ratio (smallest–largest) | gateway's CPU a token |"
    return f"{head}\n|---|---|---|---|---|\n| {' | '.join(cells)} |"


@dataclass(frozen=True, slots=True)
class _Run:
    tokens_per_s: float
    cpu_us_per_token: float


def _through(deployment: ServedDeployment, prompts: Sequence[Prompt], load: ThroughputLoad) -> _Run:
    gateway = deployment.gateway
    assert gateway is not None, "it is served with its gateway"
    process = psutil.Process(gateway.process.pid)
    requests = [_request(deployment.spec.name, ids, load.output_tokens) for _, ids in prompts]
    tokens = load.streams * load.output_tokens
    before_s, began_s = sum(process.cpu_times()[:2]), time.monotonic()
    count = run_requests(gateway.config.port, requests)
    wall_s = time.monotonic() - began_s
    if count.done != load.streams:
        raise RuntimeError(f"{count.done} of {load.streams} streams ended")
    return _Run(tokens / wall_s, 1e6 * (sum(process.cpu_times()[:2]) - before_s) / tokens)


def _request(model: str, ids: Sequence[int], tokens: int) -> bytes:
    """As many tokens as the direct way is asked for, whatever they are."""
    fields = {"prompt": ids, "max_tokens": tokens, "min_tokens": tokens, "temperature": 0, "stream": True}
    body = orjson.dumps({"model": model, **fields})
    head = "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
