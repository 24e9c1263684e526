"""What logs, metrics and traces say of one request when it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from slipstream.gateway.observability.metrics import Gaps


@dataclass(slots=True)
class Times:
    """When the parts of one generation came, on the clock of `time.monotonic`; written as they come."""

    gaps: Gaps | None = None  # of its model
    sent_s: float | None = None  # the engine was asked
    first_s: float | None = None
    last_s: float | None = None
    finish: str = ""  # stop, length or error; empty while it runs and where the client left
    has_ended: bool = False

    def chunk(self, at_s: float) -> None:
        """Tokens came."""
        if self.last_s is None:
            self.first_s = at_s
        elif self.gaps is not None:
            self.gaps.add(at_s - self.last_s)
        self.last_s = at_s


class Observed(Protocol):
    """A generation, as far as it is observed."""

    @property
    def times(self) -> Times: ...

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def output_tokens(self) -> int: ...


@dataclass(slots=True, kw_only=True)
class Record:
    """Filled by whoever knows, in the order of events; never with a text of the client or of the model."""

    model: str = ""  # that is served; empty until it is known to be one
    backend: str = ""  # that answered
    cache: str = ""  # what the response cache said: hit, miss or bypass
    route_reason: str = ""  # why this model or this backend
    queued_s: float = 0.0  # in the gateway, waiting for a turn
    error_code: str = ""  # of the answer that was a refusal or a failure
    generations: Sequence[Observed] = field(default=())

    @property
    def sent_s(self) -> float | None:
        """The first time that an engine was asked."""
        return min((times.sent_s for times in self._times() if times.sent_s is not None), default=None)

    @property
    def last_s(self) -> float | None:
        """The last token so far."""
        return max((times.last_s for times in self._times() if times.last_s is not None), default=None)

    @property
    def first_s(self) -> float | None:
        """The first token."""
        return min((times.first_s for times in self._times() if times.first_s is not None), default=None)

    def overhead_s(self, received_s: float, now_s: float) -> float:
        """The time from `received_s` to `now_s` less that in which an engine or a turn was waited for."""
        sent_s, last_s = self.sent_s, self.last_s
        waited_s = last_s - sent_s if sent_s is not None and last_s is not None else 0.0
        return max(now_s - received_s - self.queued_s - waited_s, 0.0)

    def _times(self) -> list[Times]:
        return [generation.times for generation in self.generations]
