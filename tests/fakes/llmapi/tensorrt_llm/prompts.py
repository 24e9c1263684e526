"""What the toy model answers, by the first word of a prompt.

count     "0 1 2 …", one number a step, without an end of its own
say       the rest of the prompt, two characters a step
leak      the same from an engine that finds no stop strings
deaf      counts, and goes on when it is aborted
euro      "1 €", the character first as a replacement character
params    the arguments of SamplingParams, as JSON
arguments the arguments of LLM, as JSON
aborted   how many generations were aborted
refuse    a ValueError of two lines;  long: a RequestError;  die: an error after two steps
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from tensorrt_llm.executor import RequestError
from tensorrt_llm.sampling_params import SamplingParams


def pieces(prompt: str, sampling: SamplingParams, arguments: dict[str, Any], aborted: int) -> Iterator[str]:
    """The answer's pieces; refusals are raised at once, as by the real one."""
    word, _, rest = prompt.partition(" ")
    if word == "refuse":
        raise ValueError("the prompt is refused\nand this is more about it")
    if word == "long":
        raise RequestError("the prompt is too long")
    if word == "die":
        return _die()
    if word in {"say", "leak"}:
        return iter([rest[start : start + 2] for start in range(0, len(rest), 2)])
    if word == "euro":
        return iter(["1 ", "\ufffd", "€"])
    told = {"params": sampling.given, "arguments": arguments, "aborted": aborted}
    if word in told:
        return iter([json.dumps(told[word], default=str)])
    return (f"{number} " for number in itertools.count())


def _die() -> Iterator[str]:
    yield "0 "
    yield "1 "
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nsecond line")
