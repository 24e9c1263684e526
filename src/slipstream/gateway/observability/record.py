"""What logs, metrics and traces say of one request when it has ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Record:
    """Filled by whoever knows, in the order of events; never with a text of the client or of the model."""

    model: str = ""  # that is served; empty until it is known to be one
    backend: str = ""  # that answered
    cache: str = ""  # what the response cache said: hit, miss or bypass
    route_reason: str = ""  # why this model or this backend
    queued_s: float = 0.0  # in the gateway, waiting for a turn
    error_code: str = ""  # of the answer that was a refusal or a failure
