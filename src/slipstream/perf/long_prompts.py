"""What a long prompt does to running streams: the time between their tokens before it comes and while it is read."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from slipstream.client import AsyncTritonClient
from slipstream.pipeline import Context
from slipstream.progress import Reporter
from slipstream.serve.supervise import served
from slipstream.text.tokenizer import Tokenizer

_TOKENS_BEFORE = 40  # of each stream, before the long prompt comes
_WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LongPromptRow:
    """One way to read long prompts, over all rounds; the gaps of all streams together."""

    chunk_tokens: int | None  # none: a prompt is read in one step
    streams: int
    prompt_tokens: int
    itl_p50_before_ms: float
    itl_p99_before_ms: float
    itl_p50_while_ms: float
    itl_p99_while_ms: float
    itl_max_while_ms: float
    ttft_p50_ms: float  # of the long prompt


@dataclass(frozen=True, slots=True)
class _Round:
    before_ms: list[float]
    while_ms: list[float]
    ttft_ms: float


def measure_long_prompts(
    context: Context, text: str, *, streams: int, prompt_tokens: int, rounds: int, report: Reporter
) -> LongPromptRow:
    """Serves the deployment meanwhile; every round has prompts that no earlier one had."""
    spec, workspace = context.spec, context.workspace
    ids = Tokenizer.load(workspace.model).encode(text, add_special_tokens=False)
    take = _windows(ids * (1 + (rounds + 1) * (prompt_tokens + 64 * streams) // len(ids)))
    results: list[_Round] = []
    with served(spec, workspace.model_repository, workspace.run, report) as deployment:
        for number in range(rounds + 1):  # the first one warms up
            report(f"{streams} streams, then {prompt_tokens} tokens", number / (rounds + 1))
            short = [take(64) for _ in range(streams)]
            results.append(asyncio.run(_play(deployment.server.endpoints.grpc, short, take(prompt_tokens))))
    runtime = spec.runtime
    chunk_tokens = runtime.prefill_chunk_tokens if runtime.enable_chunked_context else None
    return _row(chunk_tokens, streams, prompt_tokens, results[1:])


def long_prompt_table(rows: Sequence[LongPromptRow]) -> str:
    """A Markdown table."""
    lines = [
        "| tokens in a step | ITL before, p50 ms | p99 | ITL while it is read, p50 ms | p99 | longest | its TTFT, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.chunk_tokens or 'the whole prompt'} | {row.itl_p50_before_ms} | {row.itl_p99_before_ms}"
        f" | {row.itl_p50_while_ms} | {row.itl_p99_while_ms} | {row.itl_max_while_ms} | {row.ttft_p50_ms} |"
        for row in rows
    ]
    return "\n".join(lines)


def _windows(ids: list[int]) -> Callable[[int], list[int]]:
    """Takes prompts of a given length out of `ids`; a number in front makes each new."""
    taken = 0

    def take(length: int) -> list[int]:
        nonlocal taken
        window = [1000 + taken % 40_000, *ids[taken : taken + length - 1]]
        taken += length
        return window

    return take


async def _play(grpc: str, short: Sequence[list[int]], long: list[int]) -> _Round:
    async with AsyncTritonClient(grpc) as client:
        arrivals: list[list[float]] = [[] for _ in short]

        async def follow(prompt: list[int], seen: list[float]) -> None:
            async for _ in client.stream_tokens(prompt, max_tokens=1500):
                seen.append(time.monotonic())  # noqa: PERF401 - the moments matter as they come

        tasks = [asyncio.create_task(follow(*each)) for each in zip(short, arrivals, strict=True)]
        while min(map(len, arrivals)) < _WARM_UP_TOKENS + _TOKENS_BEFORE:
            await asyncio.sleep(0.005)
        came = time.monotonic()
        reply = client.stream_tokens(long, max_tokens=1)
        done = await reply.finish()
        began = time.monotonic()
        while not all(seen[-1] > began for seen in arrivals):
            await asyncio.sleep(0.005)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert done.ttft_ms is not None
    before = [gap for seen in arrivals for gap in _gaps([at for at in seen[_WARM_UP_TOKENS:] if at < came])]
    return _Round(before, [gap for seen in arrivals for gap in _gaps_over(seen, came, began)], done.ttft_ms)


def _gaps(moments: Sequence[float]) -> list[float]:
    return [(after - before) * 1000 for before, after in pairwise(moments)]


def _gaps_over(moments: Sequence[float], begin: float, end: float) -> list[float]:
    """Those that overlap the time from `begin` to `end`."""
    first = max(place for place, at in enumerate(moments) if at <= begin)
    last = min(place for place, at in enumerate(moments) if at > end)
    return _gaps(moments[first : last + 1])


def _row(chunk_tokens: int | None, streams: int, prompt_tokens: int, rounds: Sequence[_Round]) -> LongPromptRow:
    before = sorted(gap for each in rounds for gap in each.before_ms)
    during = sorted(gap for each in rounds for gap in each.while_ms)
    return LongPromptRow(
        chunk_tokens=chunk_tokens,
        streams=streams,
        prompt_tokens=prompt_tokens,
        itl_p50_before_ms=_percentile(before, 0.5),
        itl_p99_before_ms=_percentile(before, 0.99),
        itl_p50_while_ms=_percentile(during, 0.5),
        itl_p99_while_ms=_percentile(during, 0.99),
        itl_max_while_ms=round(during[-1], 1),
        ttft_p50_ms=round(statistics.median(each.ttft_ms for each in rounds), 1),
    )


def _percentile(ordered: Sequence[float], share: float) -> float:
    return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 1)
