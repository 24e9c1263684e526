"""A draft engine inside the CPU engine: its target itself, so that every draft token is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.backend.messages import Ending, Generate
from slipstream.backend.parameters import PipelineSettings
from slipstream.backend.pipeline import Pipeline
from slipstream.backend.requests import Penalties, StopRules
from slipstream.backend.speculating_pipeline import open_pipeline
from slipstream.backend.speculation import Speculation, Wish
from slipstream.text.tokenizer import Tokenizer

TOKENS = 24


@pytest.fixture(scope="module")
def pipeline(artifacts: Path) -> Pipeline:
    settings = PipelineSettings(
        engine_dir=artifacts / "engine",
        execution="accuracy",
        kv_cache_gib=1,
        max_batch_size=8,
        max_num_tokens=256,
        enable_kv_cache_reuse=True,
        enable_chunked_context=True,
    )
    draft = Speculation(max_draft_len=3, draft_engine_dir=artifacts / "engine")
    return open_pipeline(replace(settings, speculation=draft))


@pytest.fixture(scope="module")
def prompts(artifacts: Path) -> list[list[int]]:
    tokenizer = Tokenizer.load(artifacts / "model")
    return [tokenizer.encode(text) for text in ("The capital of France is", "Once upon a time", "1, 2, 3, 4,")]


def outputs(pipeline: Pipeline, prompts: list[list[int]], wish: Wish, first: int) -> list[tuple[list[int], int, int]]:
    """Tokens, drafted and accepted of each, begun together."""
    stop = StopRules(max_new_tokens=TOKENS, min_new_tokens=0, end_id=None, stop_words=(), bad_words=())
    running = {
        index: pipeline.add(Generate(first + index, ids, None, Penalties(), stop, (), False, wish))
        for index, ids in enumerate(prompts)
    }
    found: list[tuple[list[int], int, int]] = [([], 0, 0) for _ in prompts]
    while running:
        pipeline.step()
        for index in list(running):
            new = running[index].read()
            if new is None:
                continue
            ids, drafted, accepted = found[index]
            found[index] = ([*ids, *new.ids], drafted + new.drafted, accepted + new.accepted)
            if new.ending is not None:
                assert new.ending is Ending.LENGTH
                del running[index]
    return found


def test_a_draft_that_is_its_target_is_always_right(pipeline: Pipeline, prompts: list[list[int]]) -> None:
    with_draft, without = (outputs(pipeline, prompts, wish, first) for wish, first in (("on", 100), ("off", 200)))
    assert [ids for ids, _, _ in with_draft] == [ids for ids, _, _ in without]
    for _, drafted, accepted in with_draft:
        assert accepted == drafted > TOKENS / 2
    assert [counts[1:] for counts in without] == [(0, 0)] * 3
