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


def settle_wish(asked: str | None, policy: Wish | None, *, is_greedy: bool, has_draft: bool, is_movable: bool) -> Wish:
    """What a request gets that asked for `asked` of an engine with `policy`; none is an engine without speculation.

    `RequestRefusedError` when it insists on what cannot be done; where it does not, it is served without speculation.
    """
    if asked is not None and asked not in WISHES:
        raise RequestRefusedError(f"{PARAMETER} is {asked!r}, it must be off, auto or on")
    wish = policy if asked is None or policy is None else WISHES[asked]
    obstacle = _obstacle(policy, is_greedy=is_greedy, has_draft=has_draft)
    if obstacle and asked == "on":
        raise RequestRefusedError(f"{PARAMETER} is on: {obstacle}; leave it out")
    if obstacle or wish is None or (wish == "auto" and not is_movable):
        return "off"
    return wish


def _obstacle(policy: Wish | None, *, is_greedy: bool, has_draft: bool) -> str:
    if policy is None:
        return "the deployment has no engine.speculation"
    if not is_greedy:
        return "tokens are drawn, and speculation is for greedy decoding"
    if has_draft:
        return "draft_input_ids brings draft tokens already"
    return ""
