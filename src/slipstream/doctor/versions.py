"""Version numbers as they occur here: `1.2.1`, `v1.3.0 rc16`, `26.07`, `590.44.01`, `4.57.3`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_NUMBER = re.compile(r"^[vr]?(\d+(?:\.\d+)*)\s*(?:rc(\d+))?(?:[+.-]?(?:post|dev|nv|[a-z]).*)?$")
_FINAL = 1 << 30  # after every release candidate


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A comparable version; a release candidate is older than its release."""

    numbers: tuple[int, ...]
    candidate: int = _FINAL

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what is not a version. `1.2` and `1.2.0` are equal."""
        match = _NUMBER.match(text.strip())
        if match is None:
            return None
        numbers = [int(part) for part in match[1].split(".")]
        while len(numbers) > 1 and numbers[-1] == 0:
            numbers.pop()
        return cls(tuple(numbers), int(match[2]) if match[2] else _FINAL)

    @property
    def major(self) -> int:
        return self.numbers[0]


def is_older(found: str, wanted: str) -> bool | None:
    """Whether `found` is before `wanted`; None where one of them is not a version."""
    left, right = Version.parse(found), Version.parse(wanted)
    return None if left is None or right is None else left < right
