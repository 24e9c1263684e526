"""What the three batchings begin and when, on a pipeline that gives every row a token a step; and their report."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from slipstream.backend.messages import Ending, Generate, Tokens
from slipstream.perf.static_batching import (
    IN_FLIGHT,
    PADDED,
    STATIC,
    Arrival,
    Lengths,
    Played,
    Reply,
    make_arrivals,
    play,
    read_lengths,
)
from slipstream.perf.static_batching_report import BatchingRow, batching_table, draw_batching, rows_of


@dataclass
class Row:
    request: Generate
    begun_in_step: int
    given: int = 0
    fresh: bool = False

    def read(self) -> Tokens | None:
        if not self.fresh:
            return None
        self.fresh = False
        ending = Ending.LENGTH if self.given == self.request.stop.max_new_tokens else None
        return Tokens(self.request.handle, [7], ending=ending)

    def cancel(self) -> None:
        raise AssertionError("no way of batching cancels a request")


@dataclass
class StepCounter:
    """The pipeline: counts steps and keeps every row."""

    steps: int = 0
    rows: list[Row] = field(default_factory=list)

    def add(self, request: Generate) -> Row:
        self.rows.append(Row(request, self.steps))
        return self.rows[-1]

    def step(self) -> None:
        self.steps += 1
        for row in self.rows:
            row.fresh = row.given < row.request.stop.max_new_tokens
            row.given += row.fresh

    def kv_cache_usage(self) -> float:
        return 0.0

    def kv_cache_bytes(self) -> int:
        return 0


OUTPUTS = [1, 5, 2, 2]


def played(policy: str) -> tuple[StepCounter, list[Reply]]:
    """Four requests at once, two in a batch."""
    pipeline = StepCounter()
    arrivals = [
        Arrival(at_s=0.0, prompt_ids=list(range(10 * (place + 1))), output_tokens=tokens)
        for place, tokens in enumerate(OUTPUTS)
    ]
    replies, _ = play(pipeline, arrivals, policy, 2, itertools.count())
    return pipeline, replies


def test_in_flight_begins_a_request_in_the_step_after_another_ended() -> None:
    pipeline, _ = played(IN_FLIGHT)
    assert ([row.begun_in_step for row in pipeline.rows], pipeline.steps) == ([0, 0, 1, 3], 5)


def test_static_begins_nothing_until_its_batch_has_ended() -> None:
    pipeline, _ = played(STATIC)
    assert ([row.begun_in_step for row in pipeline.rows], pipeline.steps) == ([0, 0, 5, 5], 7)


def test_a_padded_batch_has_one_length() -> None:
    pipeline, _ = played(PADDED)
    shape = [(len(row.request.prompt_ids), row.request.stop.max_new_tokens) for row in pipeline.rows]
    assert shape == [(20, 5), (20, 5), (40, 2), (40, 2)]


@pytest.mark.parametrize("policy", [IN_FLIGHT, STATIC, PADDED])
def test_only_tokens_that_were_asked_for_count(policy: str) -> None:
    assert [reply.tokens for reply in played(policy)[1]] == OUTPUTS


def test_only_in_a_padded_batch_a_short_reply_waits_for_the_long_one() -> None:
    static, padded = played(STATIC)[1], played(PADDED)[1]
    assert static[0].latency_s < static[1].latency_s
    assert padded[0].latency_s == padded[1].latency_s


def test_the_trace_is_shortened_to_the_context(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("input_tokens,output_tokens\n800,80\n4000,8\n3,3\n")
    lengths = [(one.prompt, one.output) for one in read_lengths(trace, shrink=8, max_seq_len=256)]
    assert lengths == [(100, 10), (255, 1), (1, 1)]


def test_arrivals_are_the_same_for_every_policy() -> None:
    lengths = [Lengths(prompt=4, output=2)] * 50
    one, other = (make_arrivals(lengths, 10.0, range(100)) for _ in range(2))
    assert one == other
    assert 2.5 < one[-1].at_s < 10
    assert make_arrivals(lengths, None, range(100))[-1].at_s == 0


def test_the_percentiles_are_those_of_the_replies() -> None:
    replies = [Reply(ttft_s=n / 100, latency_s=n / 10, tokens=2) for n in range(1, 101)]
    row = rows_of([Played(policy=STATIC, offered_per_s=None, replies=replies, wall_s=4.0)])[0]
    assert (row.latency_p99_s, row.ttft_p99_s, row.tokens_per_s, row.requests_per_s) == (9.9, 0.99, 50.0, 25.0)


def test_the_page_shows_what_was_measured(root: Path, tmp_path: Path) -> None:
    results = json.loads((root / "perf" / "results" / "static_batching.json").read_text())
    rows = [BatchingRow(**row) for row in results["rows"]]
    assert batching_table(rows) in (root / "docs" / "in-flight-batching.md").read_text()
    draw_batching(rows, tmp_path / "one.svg")
    draw_batching(rows, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
