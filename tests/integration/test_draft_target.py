"""Draft-target speculation on the embedded server: two real engines, upstream's protocol, the target's own text.

The target holds INT8 weights, its draft the same model's 16-bit ones: most of the draft is right, but not all.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipstream.pipeline import Context, run_stage, stages_for
from slipstream.progress import silent
from slipstream.serve.supervise import served as serving
from slipstream.spec_file import load_deployment
from slipstream.text.tokenizer import Tokenizer
from tests.conftest import Served, copy_artifacts
from tests.integration.triton_calls import PROMPT, infer, prompt_of, text

BLS, TARGET, DRAFT = "tensorrt_llm_bls", "tensorrt_llm", "tensorrt_llm_draft"
DEPLOYMENT = "smollm2-135m-cpu-draft"
NUM_TOKENS = 24
PROMPTS = (PROMPT, "Once upon a time, in a small village,", "The three laws of motion are")


@pytest.fixture(scope="module")
def pair(artifacts: Path, root: Path) -> Iterator[Served]:
    """The deployment in accuracy mode; what its target shares with the default deployment is not made again."""
    from slipstream.project import Workspace

    directory = copy_artifacts(artifacts, "pair")
    shutil.rmtree(directory / "model_repository")
    spec = load_deployment(DEPLOYMENT, ["runtime.execution=accuracy", "runtime.ports=auto"], root=root)
    context = Context(spec=spec, root=root, workspace=Workspace(directory=directory))
    made = {stage.name: run_stage(stage, context, silent).reused for stage in stages_for(spec)}
    assert {name for name, is_reused in made.items() if is_reused} == {"model", "checkpoint", "engine"}
    with serving(spec, context.workspace.model_repository, context.workspace.run, silent) as deployed:
        where = deployed.server.endpoints
        yield Served(where.http, where.grpc, where.metrics, context.workspace, deployed.server.process.pid)


@pytest.fixture(scope="module")
def prompt(artifacts: Path) -> list[int]:
    return Tokenizer.load(artifacts / "model").encode(PROMPT)


def engine(pair: Served, prompt: Sequence[int], max_tokens: int, **inputs: Any) -> list[int]:
    """The output of the target alone, or of one step of verification."""
    found = infer(pair, TARGET, **prompt_of(prompt, max_tokens), exclude_input_in_output=True, **inputs)
    ids: list[int] = found["output_ids"].reshape(-1).tolist()
    return ids


def bls(pair: Served, text_input: str = PROMPT, **wishes: Any) -> Any:
    return infer(pair, BLS, **{"text_input": text_input, "max_tokens": NUM_TOKENS, "stream": False, **wishes})


def figures(response: Any) -> tuple[float, int, int]:
    names = ("acceptance_rate", "total_accepted_draft_tokens", "total_draft_tokens")
    rate, accepted, drafted = (response[name].item() for name in names)
    return rate, accepted, drafted


@pytest.mark.parametrize("drawn", [{}, {"runtime_top_k": 20, "temperature": 0.9, "seed": 3}], ids=["greedy", "drawn"])
def test_the_target_gives_back_what_it_accepts_and_one_token_more(
    pair: Served, prompt: list[int], drawn: dict[str, Any]
) -> None:
    alone = engine(pair, prompt, 8, **drawn)
    wrong = next(token for token in itertools.count(1000) if token not in alone)
    for accepted, draft in ((0, [wrong]), (2, [*alone[:2], wrong, alone[3]]), (4, alone[:4])):
        assert engine(pair, prompt, 8, draft_input_ids=draft, **drawn) == alone[: accepted + 1]
    assert engine(pair, prompt, 2, draft_input_ids=alone[:4], **drawn) == alone[:2]
    measured = {"draft_input_ids": [alone[0], wrong], "return_perf_metrics": True}
    found = infer(pair, TARGET, **prompt_of(prompt, 8), **measured, **drawn)
    assert figures(found) == (0.5, 1, 2)


def test_a_draft_is_bounded_as_the_deployment_says(pair: Served, prompt: list[int]) -> None:
    with pytest.raises(Exception, match="holds 6 tokens, the limit max_draft_len is 5"):
        engine(pair, prompt, 9, draft_input_ids=[1000] * 6)


def test_the_text_is_what_the_target_writes_alone(pair: Served) -> None:
    totals = []
    for text_input, drafts in itertools.product(PROMPTS, (1, 4)):
        alone = text([bls(pair, text_input)])
        found = bls(pair, text_input, num_draft_tokens=drafts, return_perf_metrics=True)
        assert text([found]) == alone
        totals.append(figures(found))
    accepted, drafted = (sum(total[position] for total in totals) for position in (1, 2))
    assert 0.5 * drafted < accepted < drafted  # the two models differ, but little


def test_the_text_ends_as_the_target_ends_it(pair: Served) -> None:
    for wishes in ({"stop_words": ","}, {"end_id": -1}, {"min_tokens": 20}, {"repetition_penalty": 1.2}):
        alone = text([bls(pair, **wishes)])
        assert text([bls(pair, num_draft_tokens=4, **wishes)]) == alone


@pytest.mark.parametrize("wish", [{"presence_penalty": 0.5}, {"frequency_penalty": 0.5}, {"bad_words": "Paris"}])
def test_what_would_begin_anew_at_every_step_is_refused(pair: Served, wish: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="step of speculation"):
        bls(pair, num_draft_tokens=3, **wish)
    assert text([bls(pair, **wish)])


DRAWN = {"runtime_top_k": 20, "temperature": 0.9}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_draft_that_was_drawn_from_the_targets_own_logits_is_kept(pair: Served, prompt: list[int], seed: int) -> None:
    found = infer(pair, TARGET, **prompt_of(prompt, 5), return_generation_logits=True, seed=seed, **DRAWN)
    draft, logits = found["output_ids"].reshape(-1)[len(prompt) :].tolist(), found["generation_logits"][0]
    assert logits.shape == (1, 5, 49152)
    drawn = {"draft_input_ids": draft, "draft_logits": logits, "seed": 100 + seed, **DRAWN}
    kept = engine(pair, prompt, 6, **drawn)
    assert (kept[:5], len(kept)) == (draft, 6)
    measured = infer(pair, TARGET, **prompt_of(prompt, 6), return_perf_metrics=True, return_log_probs=True, **drawn)
    assert figures(measured) == (1, 5, 5)
    found = infer(pair, TARGET, **prompt_of([*prompt, *draft[:4]], 1), return_log_probs=True)
    row = logits[0, 4].astype(np.float64)
    assert measured["output_log_probs"].reshape(-1)[4] == pytest.approx(
        row[draft[4]] - np.logaddexp.reduce(row), abs=5e-3
    )


def test_a_draft_that_is_sure_of_an_unlikely_token_is_not_kept(pair: Served, prompt: list[int]) -> None:
    alone = engine(pair, prompt, 3)
    unlikely = next(token for token in itertools.count(1000) if token not in alone)
    logits = np.full((1, 1, 49152), -30, np.float32)
    logits[0, 0, unlikely] = 30
    for seed in range(4):
        drawn = {"draft_input_ids": [unlikely], "draft_logits": logits, "seed": seed, **DRAWN}
        (token,) = engine(pair, prompt, 2, **drawn)
        assert token != unlikely
    # A greedy request accepts by equal tokens, whatever the draft's logits are.
    assert engine(pair, prompt, 2, draft_input_ids=alone[:1], draft_logits=logits) == alone[:2]


def test_speculation_by_logits_writes_the_targets_text_or_draws_one(pair: Served) -> None:
    found = bls(pair, num_draft_tokens=3, use_draft_logits=True, max_tokens=8)
    assert text([found]) == text([bls(pair, max_tokens=8)])
    drawn = {"top_k": 20, "temperature": 0.9, "seed": 4, "return_perf_metrics": True, "end_id": -1, "max_tokens": 12}
    first, again = (bls(pair, num_draft_tokens=3, use_draft_logits=True, **drawn) for _ in range(2))
    assert text([first]) == text([again])
    rate, accepted, drafted = figures(first)
    assert 0.5 < rate == pytest.approx(accepted / drafted)
    assert drafted >= 6
