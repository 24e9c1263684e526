"""How long a request may take, waiting and running: Triton's `timeout` parameter, and the deployment's own limit."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """The moment at which a request ends with an error if it has not ended before."""

    at_ns: int  # on the steady clock
    allowed_us: int

    @classmethod
    def of(cls, *, timeout_us: int, default_us: int) -> Deadline | None:
        """From now on, the shorter of what the request allows itself and the deployment allows it; 0: no limit."""
        given = [limit for limit in (timeout_us, default_us) if limit > 0]
        if not given:
            return None
        allowed_us = min(given)
        return cls(at_ns=time.monotonic_ns() + allowed_us * 1000, allowed_us=allowed_us)

    @property
    def has_passed(self) -> bool:
        return time.monotonic_ns() >= self.at_ns

    def failure(self, *, has_begun: bool, tokens_generated: int) -> str:
        """What the client is told."""
        progress = f"{tokens_generated} tokens were generated" if has_begun else "it was waiting for the engine"
        return (
            f"the request has not ended within its timeout of {self.allowed_us / 1e6:g} s, {progress}: ask for fewer"
            " tokens, or allow more time (the request's timeout, at most runtime.request_timeout_s)"
        )
