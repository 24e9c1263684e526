"""The comparison with peers as rows and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.perf.peers import PeerRun

US = "tensorrt_llm"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRow:
    """One server at one number of streams: medians over rounds, times over rounds and streams."""

    streams: int
    server: str
    precision: str
    tokens_per_s: float
    ours_to_theirs: float  # tokens/s of tensorrt_llm to this server's, round by round
    ttft_p50_ms: float
    itl_p50_ms: float
    server_cpu_us_per_token: int
    client_cpu_us_per_token: int
    rss_gib: float


def peer_rows(runs: Sequence[PeerRun], precisions: dict[str, str]) -> list[PeerRow]:
    """Rows in the order in which servers and numbers of streams first came."""
    rows = []
    for streams in dict.fromkeys(run.streams for run in runs):
        ours = [run for run in runs if run.streams == streams and run.server == US]
        for server, precision in precisions.items():
            mine = [run for run in runs if run.streams == streams and run.server == server]
            if mine:
                rows.append(_row(streams, server, precision, mine, ours))
    return rows


def peer_table(rows: Sequence[PeerRow]) -> str:
    """A Markdown table."""
    lines = [
        "| streams | server | tok/s | ours to it | TTFT p50 ms | ITL p50 ms | CPU µs/token | client's | RSS GiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.streams} | {row.server} | {row.tokens_per_s} | {row.ours_to_theirs} "
        f"| {row.ttft_p50_ms} | {row.itl_p50_ms} | {row.server_cpu_us_per_token} | {row.client_cpu_us_per_token} "
        f"| {row.rss_gib} |"
        for row in rows
    ]
    return "\n".join(lines)


def _row(streams: int, server: str, precision: str, mine: Sequence[PeerRun], ours: Sequence[PeerRun]) -> PeerRow:
    replies = [reply for run in mine for reply in run.replies]
    tokens = sum(reply.tokens for reply in replies)
    ratios = [us.tokens_per_s / them.tokens_per_s for us, them in zip(ours, mine, strict=False)]  # one may be left out
    return PeerRow(
        streams=streams,
        server=server,
        precision=precision,
        tokens_per_s=round(statistics.median(run.tokens_per_s for run in mine), 1),
        ours_to_theirs=round(statistics.median(ratios), 2),
        ttft_p50_ms=round(1e3 * statistics.median(reply.first_s for reply in replies), 1),
        itl_p50_ms=round(1e3 * statistics.median(reply.itl_s for reply in replies), 1),
        server_cpu_us_per_token=round(1e6 * sum(run.server_cpu_s for run in mine) / tokens),
        client_cpu_us_per_token=round(1e6 * sum(run.client_cpu_s for run in mine) / tokens),
        rss_gib=round(max(run.rss_gib for run in mine), 2),
    )
