"""A prefix that an earlier request had is not computed again: seen in the number of steps, not in their time."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from slipstream.backend.pipeline import KV_BLOCK_TOKENS, OpenVinoPipeline
from slipstream.perf.bare_engine import forced_generation
from slipstream.perf.prefix_reuse import ReuseRow, reuse_table
from slipstream.perf.serving_overhead import engine_settings
from tests.conftest import a_context

STEP_TOKENS = 64  # of a prompt, computed in one step
PREFIX = [3 + number % 997 for number in range(1000)]
QUESTION = 24


@pytest.fixture(scope="module")
def pipeline(artifacts: Path) -> OpenVinoPipeline:
    """The default deployment's engine, with steps so short that a long prompt needs many."""
    settings = engine_settings(a_context(artifacts))
    assert settings.enable_kv_cache_reuse
    return OpenVinoPipeline(dataclasses.replace(settings, max_num_tokens=STEP_TOKENS))


def steps_to_first_token(pipeline: OpenVinoPipeline, handle: int, ids: list[int]) -> int:
    generation = pipeline.add(forced_generation(handle, ids, 1))
    steps = 0
    while True:
        pipeline.step()
        steps += 1
        if generation.read() is not None:
            return steps


def test_the_second_request_computes_its_question_and_less_than_a_block(pipeline: OpenVinoPipeline) -> None:
    prompt_steps = -(-(len(PREFIX) + QUESTION) // STEP_TOKENS)
    assert steps_to_first_token(pipeline, 0, [*PREFIX, *range(2000, 2000 + QUESTION)]) == prompt_steps
    assert QUESTION + KV_BLOCK_TOKENS <= STEP_TOKENS
    assert steps_to_first_token(pipeline, 1, [*PREFIX, *range(3000, 3000 + QUESTION)]) == 1


def test_another_first_token_shares_nothing(pipeline: OpenVinoPipeline) -> None:
    prompt_steps = -(-len(PREFIX) // STEP_TOKENS)
    assert steps_to_first_token(pipeline, 2, [1, *PREFIX[1:]]) == prompt_steps


def test_the_page_shows_what_was_measured(root: Path) -> None:
    results = json.loads((root / "perf" / "results" / "prefix_reuse.json").read_text())
    rows = [ReuseRow(**row) for row in results["rows"]]
    assert reuse_table(rows) in (root / "docs" / "in-flight-batching.md").read_text()
    assert next(row.ratio_p50 for row in rows if row.prefix_tokens == 1000) <= 0.2
