"""The comparison of batchings as rows, as a table and as a plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slipstream.perf.static_batching import POLICIES, Played


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingRow:
    """One policy at one rate."""

    policy: str
    offered_per_s: float | None  # none: all at once
    requests: int
    requests_per_s: float
    tokens_per_s: float  # output tokens that were asked for
    ttft_p50_s: float
    ttft_p99_s: float
    latency_p50_s: float
    latency_p99_s: float


def rows_of(played: Sequence[Played]) -> list[BatchingRow]:
    return [_row(one) for one in played]


def batching_table(rows: Sequence[BatchingRow]) -> str:
    """A Markdown table."""
    lines = [
        "| offered | batching | output tok/s | latency p50 s | p99 | TTFT p50 s | p99 |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {_offered(row)} | {row.policy} | {row.tokens_per_s} | {row.latency_p50_s} | {row.latency_p99_s} "
        f"| {row.ttft_p50_s} | {row.ttft_p99_s} |"
        for row in rows
    ]
    return "\n".join(lines)


def draw_batching(rows: Sequence[BatchingRow], path: Path) -> None:
    """Throughput of a full queue and p99 latency by rate, as SVG; the same rows give the same bytes."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "slipstream", "svg.fonttype": "none", "font.family": "sans-serif"}
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for policy in POLICIES:
        mine = [row for row in rows if row.policy == policy]
        left.bar(policy, next(row.tokens_per_s for row in mine if row.offered_per_s is None))
        by_rate = [(row.offered_per_s, row.latency_p99_s) for row in mine if row.offered_per_s is not None]
        right.plot(*zip(*by_rate, strict=True), marker="o", label=policy)
    left.set(ylabel="output tokens/s", title="all requests at once")
    right.set(xlabel="requests/s offered", ylabel="latency p99, s", title="Poisson arrivals", yscale="log")
    right.grid(visible=True, which="both", linewidth=0.3)
    right.legend()
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def _row(played: Played) -> BatchingRow:
    ttft = sorted(reply.ttft_s for reply in played.replies)
    latency = sorted(reply.latency_s for reply in played.replies)
    return BatchingRow(
        policy=played.policy,
        offered_per_s=None if played.offered_per_s is None else round(played.offered_per_s, 2),
        requests=len(played.replies),
        requests_per_s=round(len(played.replies) / played.wall_s, 2),
        tokens_per_s=round(sum(reply.tokens for reply in played.replies) / played.wall_s, 1),
        ttft_p50_s=round(statistics.median(ttft), 2),
        ttft_p99_s=round(_p99(ttft), 2),
        latency_p50_s=round(statistics.median(latency), 2),
        latency_p99_s=round(_p99(latency), 2),
    )


def _p99(ordered: Sequence[float]) -> float:
    return ordered[math.ceil(0.99 * len(ordered)) - 1]


def _offered(row: BatchingRow) -> str:
    return "all at once" if row.offered_per_s is None else f"{row.offered_per_s}/s"
