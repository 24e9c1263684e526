"""Speculation inside the engine: what a deployment has of it, and what a request gets.

Draft tokens come from a second, smaller engine, or from the text itself: the tokens that followed the same n-gram
before. The engine computes them all in one step and keeps those that it would have written, so greedy output is the
same with and without.

A request says what it wants with the parameter `speculation`: `off`, `on`, or `auto`, with which the engine speculates
as long as that is measured to be faster. Without the parameter the deployment's `runtime.speculation` holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from slipstream.backend.tensors import RequestRefusedError

Wish: TypeAlias = Literal["off", "auto", "on"]
PARAMETER = "speculation"
MAX_MATCHING_NGRAM_SIZE = 2

WISHES: Mapping[str, Wish] = {"off": "off", "auto": "auto", "on": "on"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """How the engine makes draft tokens."""

    max_draft_len: int
    draft_engine_dir: Path | None  # none: from n-grams of the text


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What of a request decides whether it can speculate."""

    is_greedy: bool
    has_beams: bool = False
    has_draft: bool = False  # it brings one
    has_least_length: bool = False
    has_grammar: bool = False
    counts_output: bool = False  # penalties that begin with the output: a request that is moved begins a new one


def settle_wish(asked: str | None, policy: Wish | None, traits: Traits) -> Wish:
    """What a request gets that asked for `asked` of an engine with `policy`; none is an engine without speculation.

    `RequestRefusedError` when it insists on what cannot be done; where it does not, it is served without speculation.
    """
    if asked is not None and asked not in WISHES:
        raise RequestRefusedError(f"{PARAMETER} is {asked!r}, it must be off, auto or on")
    wish = policy if asked is None or policy is None else WISHES[asked]
    obstacle = _obstacle(policy, traits)
    if obstacle and asked == "on":
        raise RequestRefusedError(f"{PARAMETER} is on: {obstacle}; leave it out")
    if obstacle or wish is None or (wish == "auto" and traits.counts_output):
        return "off"
    return wish


def _obstacle(policy: Wish | None, traits: Traits) -> str:
    """Why a request cannot speculate; empty where it can."""
    obstacles = {
        "the deployment has no engine.speculation": policy is None,
        "tokens are drawn, and speculation is for greedy decoding": not traits.is_greedy,
        "a beam search keeps several texts at once": traits.has_beams,
        "draft_input_ids brings draft tokens already": traits.has_draft,
        # It bars the end id by the length of the text before the draft: an end id inside a draft would be accepted.
        "min_tokens is not kept within a draft": traits.has_least_length,
        "a guide, or a grammar without bad words, is followed token by token": traits.has_grammar,
    }
    return next((obstacle for obstacle, is_there in obstacles.items() if is_there), "")
