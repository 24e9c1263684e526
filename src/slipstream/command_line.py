"""One command that a person or a machine runs: what it is for, its arguments, its environment and its container."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command as it runs *inside* its container; nothing of it goes through a shell."""

    purpose: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)  # in addition to the container's own
    container: str | None = None  # the image; None: any environment with Slipstream

    @property
    def shell_text(self) -> str:
        """One line for a shell: the environment, then the quoted arguments."""
        assignments = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        return " ".join([*assignments, shlex.join(self.argv)])

    def as_json(self) -> dict[str, Any]:
        return {
            "purpose": self.purpose,
            "argv": list(self.argv),
            "env": dict(self.env),
            "container": self.container,
        }
