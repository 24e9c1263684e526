"""How often the rule that chooses a model by difficulty agrees with labels, and what that saves."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from slipstream.gateway.complexity import SIZES, Ask, Size, judge

PROMPTS = "perf/complexity/prompts.jsonl"
TARGET_ACCURACY = 0.80  # on the held-out half
MOST_UNDER_ROUTED = 0.10  # of the held-out half: prompts that get less than they need

# What a request costs: a token's price goes with the model's parameters.
PARAMETERS_B: dict[Size, float] = {"small": 1, "medium": 8, "large": 70}
ANSWER_TOKENS: dict[Size, int] = {"small": 50, "medium": 300, "large": 1200}  # by what the prompt asks for
_CHARS_PER_TOKEN = 4


class LabelledPrompt(BaseModel):
    """A line of the labelled prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    label: Size  # the smallest class that should answer it
    why: str  # the rule of the guideline
    language: str
    domain: str
    style: Literal["plain", "casual"]
    prompt: str
    history: tuple[str, ...] = ()  # user and assistant in turn
    tools: int = 0
    json_schema: bool = False
    max_tokens: int | None = None
    attached_chars: int = 0

    @property
    def is_held_out(self) -> bool:
        return hashlib.sha256(self.prompt.encode()).digest()[0] % 2 == 1

    @property
    def ask(self) -> Ask:
        return Ask(
            task=self.prompt,
            context_chars=self.attached_chars + sum(map(len, self.history)),
            user_turns=1 + len(self.history[::2]),
            tools=self.tools,
            has_schema=self.json_schema,
            max_tokens=self.max_tokens,
        )

    def cost(self, size: Size) -> float:
        """Billions of parameters times tokens."""
        prompt_tokens = (len(self.prompt) + self.ask.context_chars) / _CHARS_PER_TOKEN
        return PARAMETERS_B[size] * (prompt_tokens + ANSWER_TOKENS[self.label])


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `total`, with Wilson's interval at 95 %."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        return self.hits / self.total

    @property
    def interval(self) -> tuple[float, float]:
        z, n, p = 1.96, self.total, self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return middle - half, middle + half

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def read_prompts(root: Path) -> list[LabelledPrompt]:
    """The labelled prompts of the repository."""
    lines = (root / PROMPTS).read_text(encoding="utf-8").splitlines()
    return [LabelledPrompt.model_validate_json(line) for line in lines]


def accuracy(prompts: Sequence[LabelledPrompt]) -> Share:
    """Prompts that get what their label says."""
    return _share(prompts, lambda got, needed: got == needed)


def under_routed(prompts: Sequence[LabelledPrompt]) -> Share:
    """Prompts that get less than they need."""
    return _share(prompts, lambda got, needed: got < needed)


def recall(prompts: Sequence[LabelledPrompt], label: Size) -> Share:
    """Of the prompts of one label, those that get it."""
    return accuracy([prompt for prompt in prompts if prompt.label == label])


def confusion(prompts: Sequence[LabelledPrompt]) -> dict[Size, dict[Size, int]]:
    """How many prompts of each label got each size."""
    rows: dict[Size, dict[Size, int]] = {label: dict.fromkeys(SIZES, 0) for label in SIZES}
    for prompt in prompts:
        rows[prompt.label][_size(prompt.ask)] += 1
    return rows


def compare_policies(prompts: Sequence[LabelledPrompt]) -> dict[str, dict[str, float]]:
    """Cost against always-large, and the share of prompts that get at least what they need, by way to choose."""
    chances: dict[str, Callable[[LabelledPrompt], dict[Size, float]]] = {
        "always large": lambda _: {"large": 1.0},
        "always small": lambda _: {"small": 1.0},
        "random": lambda _: dict.fromkeys(SIZES, 1 / len(SIZES)),
        "by difficulty": lambda prompt: {_size(prompt.ask): 1.0},
        "by the labels": lambda prompt: {prompt.label: 1.0},
    }
    dearest = sum(prompt.cost("large") for prompt in prompts)
    return {
        name: {
            "cost": sum(p * prompt.cost(size) for prompt in prompts for size, p in chance(prompt).items()) / dearest,
            "enough": sum(p for prompt in prompts for size, p in chance(prompt).items() if _is_enough(size, prompt))
            / len(prompts),
        }
        for name, chance in chances.items()
    }


@cache  # it is asked for by every figure
def _size(ask: Ask) -> Size:
    return judge(ask).size


def _share(prompts: Sequence[LabelledPrompt], holds: Callable[[int, int], bool]) -> Share:
    pairs = [(SIZES.index(_size(prompt.ask)), SIZES.index(prompt.label)) for prompt in prompts]
    return Share(sum(holds(got, needed) for got, needed in pairs), len(pairs))


def _is_enough(size: Size, prompt: LabelledPrompt) -> bool:
    return SIZES.index(size) >= SIZES.index(prompt.label)
