"""How a model is chosen by difficulty: the score, the labelled prompts it is held against, and their page."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.gateway import complexity
from slipstream.gateway.complexity import SIZES, Ask, judge
from slipstream.gateway.complexity_markers import MANY_STEPS, ONE_PAGE, ONE_STEP
from slipstream.perf.complexity import (
    MOST_UNDER_ROUTED,
    TARGET_ACCURACY,
    LabelledPrompt,
    Share,
    accuracy,
    compare_policies,
    read_prompts,
    under_routed,
)
from slipstream.perf.complexity_report import PAGE, RESULTS, figures, tables


@pytest.fixture(scope="module")
def prompts(root: Path) -> list[LabelledPrompt]:
    return read_prompts(root)


def test_the_target_is_met_on_prompts_that_nothing_was_tuned_on(prompts: list[LabelledPrompt]) -> None:
    held_out = [prompt for prompt in prompts if prompt.is_held_out]
    assert accuracy(held_out).value >= TARGET_ACCURACY
    assert under_routed(held_out).value <= MOST_UNDER_ROUTED


def test_the_figures_on_file_are_those_of_the_rule_as_it_is(root: Path, prompts: list[LabelledPrompt]) -> None:
    kept = json.loads((root / RESULTS).read_text())
    now = figures(prompts)
    assert {name: kept[name] for name in now} == now, "run perf/complexity_routing.py"
    assert tables(kept) in (root / PAGE).read_text()


def test_the_page_names_every_kind_of_work_and_both_thresholds(root: Path) -> None:
    page = " ".join((root / PAGE).read_text().split())
    for marker in (*MANY_STEPS, *ONE_PAGE, *ONE_STEP):
        assert marker.name in page
    assert f"**{complexity.MEDIUM_FROM} points** make it medium, **{complexity.LARGE_FROM} points** large" in page


def test_the_labelled_prompts_are_many_different_and_balanced(prompts: list[LabelledPrompt]) -> None:
    assert len({prompt.prompt for prompt in prompts}) == len(prompts) >= 300
    halves = [Counter(prompt.label for prompt in prompts if prompt.is_held_out is half) for half in (True, False)]
    assert all(half[size] >= 50 for half in halves for size in SIZES)
    assert len({prompt.language for prompt in prompts}) >= 10
    assert len({prompt.domain for prompt in prompts}) >= 30


def test_a_choice_costs_less_than_always_large_and_does_better_than_chance(prompts: list[LabelledPrompt]) -> None:
    policies = compare_policies([prompt for prompt in prompts if prompt.is_held_out])
    assert policies["by difficulty"]["cost"] < policies["always large"]["cost"] == 1
    assert policies["by difficulty"]["enough"] > policies["random"]["enough"] > policies["always small"]["enough"]
    assert policies["by the labels"]["enough"] == 1


def test_wilsons_interval_is_the_textbooks() -> None:
    low, high = Share(81, 263).interval
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_what_is_quoted_is_not_what_is_asked_for() -> None:
    asked = judge(Ask(task="Prove that the sum of two odd numbers is even."))
    quoted = judge(Ask(task='Translate to Dutch: "Prove that the sum of two odd numbers is even."'))
    assert asked.size == "large"
    assert quoted.size == "small"


def test_a_message_that_is_one_quotation_is_read_all_the_same() -> None:
    assert judge(Ask(task='"Prove that every tournament has a Hamiltonian path."')).size == "large"


def test_of_a_long_message_only_its_ends_are_read() -> None:
    middle = Ask(task="Which year? " + "x" * 5000 + " prove the theorem " + "x" * 5000)
    assert "proof" not in judge(middle).reason
    assert "proof" in judge(replace(middle, task=middle.task + " prove the theorem")).reason


@pytest.mark.parametrize(
    ("change", "term"),
    [
        ({"context_chars": 60_000}, "material+5"),
        ({"user_turns": 5}, "turns+3"),
        ({"tools": 3}, "tools+2"),
        ({"has_schema": True}, "schema+1"),
        ({"max_tokens": 6000}, "long-answer+1"),
        ({"max_tokens": 16}, "short-answer-2"),
        ({"budget": "low"}, "budget-2"),
        ({"budget": "high"}, "budget+2"),
    ],
)
def test_what_comes_with_a_prompt_counts_and_is_named(change: dict[str, object], term: str) -> None:
    plain = Ask(task="Who wrote Emma?")
    changed = judge(replace(plain, **change))  # type: ignore[arg-type]
    assert term in changed.reason.split()
    assert changed.score - judge(plain).score == int(term[-2:])


@settings(max_examples=30)
@given(st.text(max_size=300), st.sampled_from(["low", "normal", "high"]), st.integers(0, 10), st.integers(1, 20))
def test_the_terms_add_up_and_show_nothing_of_the_prompt(
    text: str, budget: complexity.Budget, tools: int, turns: int
) -> None:
    verdict = judge(Ask(task=text, budget=budget, tools=tools, user_turns=turns))
    assert verdict.score == sum(term.points for term in verdict.terms)
    known = {marker.name for marker in (*MANY_STEPS, *ONE_PAGE, *ONE_STEP)} | {
        "length", "requirements", "sentences", "numbers", "unknown work", "material", "turns", "tools", "budget",
        "code shown",
    }  # fmt: skip
    assert {term.name for term in verdict.terms} <= known
    assert verdict.reason.isascii()
    assert verdict.reason.isprintable()
