"""The gate: limits, violations and the message of a rejected checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipstream.formats import Method
from slipstream.quantize.accuracy.gate import judge, rejection
from slipstream.quantize.accuracy.report import AccuracyReport, ChoiceAccuracy, TextAccuracy
from slipstream.quantize.accuracy.statistics import Interval
from slipstream.quantize.recipe_schema import Limits

LIMITS = Limits(max_perplexity_increase_percent=5, max_kl=0.1, min_top1_agreement=0.85)
GOOD = TextAccuracy(
    text="news",
    tokens=1000,
    perplexity_before=20.0,
    perplexity_after=20.5,
    kl_mean=0.02,
    kl_p99=0.3,
    top1_agreement=0.93,
)


def a_report(**changes: float) -> AccuracyReport:
    return AccuracyReport(texts=(GOOD, replace(GOOD, text="wikipedia", **changes)))


def test_a_model_within_its_limits_passes() -> None:
    assert judge(a_report(), LIMITS) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"perplexity_after": 22.0}, "max_perplexity_increase_percent is 5, found 10 on wikipedia"),
        ({"kl_mean": 0.1234}, "max_kl is 0.1, found 0.1234 on wikipedia"),
        ({"top1_agreement": 0.8}, "min_top1_agreement is 0.85, found 0.8 on wikipedia"),
    ],
)
def test_each_limit_is_named_with_what_was_found_and_where(change: dict[str, float], message: str) -> None:
    assert [str(violation) for violation in judge(a_report(**change), LIMITS)] == [message]


def test_a_value_at_its_limit_passes() -> None:
    at_limits = a_report(perplexity_after=21.0, kl_mean=0.1, top1_agreement=0.85)
    assert judge(at_limits, LIMITS) == []


def test_limits_that_are_not_set_are_not_judged() -> None:
    bad = a_report(perplexity_after=99.0, kl_mean=9.0, top1_agreement=0.0)
    assert judge(bad, Limits()) == []
    assert len(judge(bad, LIMITS)) == 3


def choices(difference: float, high: float) -> AccuracyReport:
    interval = Interval(low=-1, high=high)
    answers = ChoiceAccuracy(
        items=500,
        chance=0.25,
        before=0.8,
        before_interval=interval,
        after=0.8 + difference,
        after_interval=interval,
        difference=difference,
        difference_interval=interval,
        lost=0,
        won=0,
        p_value=1.0,
    )
    return AccuracyReport(texts=(GOOD,), choices=answers)


def test_a_drop_in_choices_counts_only_beyond_chance_and_beyond_the_limit() -> None:
    limits = Limits(max_choice_drop_points=2)
    assert judge(choices(-0.06, high=0.001), limits) == []
    assert judge(choices(-0.01, high=-0.001), limits) == []
    assert judge(AccuracyReport(texts=(GOOD,)), limits) == []
    (violation,) = judge(choices(-0.06, high=-0.001), limits)
    assert str(violation) == "max_choice_drop_points is 2, found 6 on multiple choice"


def test_a_rejection_says_what_was_found_where_it_is_kept_and_which_recipe_to_try_next() -> None:
    violations = judge(a_report(kl_mean=0.3), LIMITS)
    error = rejection("int8_sq", "int8_sq", violations, Path("build/x/checkpoint.rejected"))
    assert error.exit_code == 1
    assert "recipe int8_sq" in error.message
    assert "max_kl is 0.1, found 0.3 on wikipedia" in error.message
    assert "kept at build/x/checkpoint.rejected" in error.message
    assert error.mend.startswith("set quantization.recipe to fp8")


@pytest.mark.parametrize(
    ("method", "settings", "mend"),
    [
        ("int8_sq", {"sm": 90}, "set quantization.recipe to fp8;"),
        ("int8_sq", {"sm": 80}, "set quantization.recipe to int8_wo;"),
        ("nvfp4", {"sm": 100, "kv_cache": "fp8"}, "set quantization.recipe to fp8, or set quantization.kv_cache to"),
        ("fp8", {"sm": 100}, "set quantization.recipe to none;"),
        ("none", {"kv_cache": "fp8"}, "set quantization.kv_cache to auto;"),
        ("none", {}, "raise the limits in the recipe;"),
    ],
)
def test_the_next_step_is_one_that_helps_on_this_gpu(method: Method, settings: dict[str, Any], mend: str) -> None:
    error = rejection(method, method, judge(a_report(kl_mean=0.3), LIMITS), Path("x"), **settings)
    assert error.mend.startswith(mend)


def test_the_report_is_written_with_the_increase_that_the_limits_speak_of() -> None:
    document = a_report(perplexity_after=21.0).document()
    assert document["texts"][1]["perplexity_increase_percent"] == pytest.approx(5)
    assert document["choices"] is None
