"""What logs, metrics and traces say of one request when it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


class Timed(Protocol):
    """A generation, as far as its times are concerned."""

    @property
    def times(self) -> Times: ...


@dataclass(slots=True, kw_only=True)
class Record:
    """Filled by whoever knows, in the order of events; never with a text of the client or of the model."""

    backend: str = ""  # that answered
    cache: str = ""  # what the response cache said: hit, miss or bypass
    route_reason: str = ""  # why this model or this backend
    queued_s: float = 0.0  # in the gateway, waiting for a turn
    error_code: str = ""  # of the answer that was a refusal or a failure


@dataclass(frozen=True, slots=True)
class Span:
    """From the first time that an engine was asked to the last token so far, over all generations of a request."""

    sent_s: float | None
    first_s: float | None
    last_s: float | None

    @property
    def waited_s(self) -> float:
        """How long an engine was waited for."""
        return 0.0 if self.sent_s is None or self.last_s is None else self.last_s - self.sent_s


def span_of(generations: Sequence[Timed]) -> Span:
    """Of those that have begun."""
    times = [generation.times for generation in generations]
    return Span(
        sent_s=min((one.sent_s for one in times if one.sent_s is not None), default=None),
        first_s=min((one.first_s for one in times if one.first_s is not None), default=None),
        last_s=max((one.last_s for one in times if one.last_s is not None), default=None),
    )
