"""What a shared prefix saves: time to the first token of two requests that begin with the same system prompt."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.client import TritonClient
from slipstream.pipeline import Context
from slipstream.progress import Reporter
from slipstream.serve.supervise import served
from slipstream.text.tokenizer import Tokenizer

MODEL = "tensorrt_llm"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReuseRow:
    """Two requests with one prefix, over all repetitions."""

    prefix_tokens: int
    question_tokens: int
    repetitions: int
    first_ttft_p50_ms: float
    second_ttft_p50_ms: float
    ratio_p50: float  # of second to first, repetition by repetition
    ratio_max: float


def measure_reuse(
    context: Context,
    text: str,
    *,
    prefix_lengths: Sequence[int],
    question_tokens: int,
    repetitions: int,
    report: Reporter,
) -> list[ReuseRow]:
    """One row for each prefix length; serves the deployment meanwhile. No prefix is used in two repetitions."""
    spec, workspace = context.spec, context.workspace
    tokenizer = Tokenizer.load(workspace.model)
    ids = tokenizer.encode(text, add_special_tokens=False)
    number, rows = 0, []
    with (
        served(spec, workspace.model_repository, workspace.run, report) as deployment,
        TritonClient(deployment.server.endpoints.grpc) as client,
    ):
        for length in prefix_lengths:
            pairs: list[tuple[float, float]] = []
            for _ in range(repetitions + 1):  # the first one warms up
                report(f"a prefix of {length} tokens", len(pairs) / (repetitions + 1))
                mark = tokenizer.encode(f"{number:06d}\n", add_special_tokens=False)
                start = number * 53 % (len(ids) - length - 2 * question_tokens)
                window = ids[start : start + length + 2 * question_tokens - len(mark)]
                pairs.append(_pair(client, [*mark, *window], length, question_tokens))
                number += 1
            rows.append(_row(length, question_tokens, pairs[1:]))
    return rows


def reuse_table(rows: Sequence[ReuseRow]) -> str:
    """A Markdown table."""
    lines = [
        "| shared prefix, tokens | TTFT p50 of the first request, ms | of the second, ms | ratio p50 | largest ratio |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.prefix_tokens} | {row.first_ttft_p50_ms} | {row.second_ttft_p50_ms} | {row.ratio_p50} "
        f"| {row.ratio_max} |"
        for row in rows
    ]
    return "\n".join(lines)


def _pair(client: TritonClient, ids: list[int], prefix_tokens: int, question_tokens: int) -> tuple[float, float]:
    prefix, questions = ids[:prefix_tokens], ids[prefix_tokens:]
    first = _ttft_ms(client, [*prefix, *questions[:question_tokens]])
    return first, _ttft_ms(client, [*prefix, *questions[question_tokens:]])


def _ttft_ms(client: TritonClient, ids: list[int]) -> float:
    ttft_ms = client.stream_tokens(ids, max_tokens=4).finish().ttft_ms
    assert ttft_ms is not None
    return ttft_ms


def _row(prefix_tokens: int, question_tokens: int, pairs: Sequence[tuple[float, float]]) -> ReuseRow:
    ratios = [second / first for first, second in pairs]
    return ReuseRow(
        prefix_tokens=prefix_tokens,
        question_tokens=question_tokens,
        repetitions=len(pairs),
        first_ttft_p50_ms=round(statistics.median(first for first, _ in pairs), 1),
        second_ttft_p50_ms=round(statistics.median(second for _, second in pairs), 1),
        ratio_p50=round(statistics.median(ratios), 3),
        ratio_max=round(max(ratios), 3),
    )
