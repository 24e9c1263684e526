"""What gRPC and Triton report as failures, in the words of somebody who can mend them."""

from __future__ import annotations

import re

from slipstream.errors import SlipstreamError

_REQUEST_ID_PREFIX = re.compile(r"^\[request id: [^\]]*\] ")


class RequestRefusedError(SlipstreamError):
    """The model refuses the request as it is; `reason` is its own sentence."""

    def __init__(self, message: str, *, mend: str, reason: str) -> None:
        super().__init__(message, mend=mend)
        self.reason = reason


class OverloadedError(RequestRefusedError):
    """The model's queue is full; the same request may be taken later."""


class DeadlineExceededError(SlipstreamError):
    """The reply was not complete in time."""


class ConnectionLostError(SlipstreamError):
    """Nothing answers there, or not any more."""


class NotConnectedError(ConnectionLostError):
    """Nothing answers there, and nothing was sent."""


class ServerFaultError(SlipstreamError):
    """The server cannot answer just now, whatever the request."""


# What Triton and the models say when a request is not to blame: a process behind them died, or the server ends.
_FAULTS = ("send the request again", "is not healthy", "is not ready", "is stopping", "stopped accepting")


def model_failure(text: str, *, model: str, address: str) -> SlipstreamError:
    """The error message that Triton put in the place of a response."""
    reason = _REQUEST_ID_PREFIX.sub("", text).strip()
    if "unknown model" in reason:
        return SlipstreamError(
            f"{address}: there is no model {model!r}",
            mend="ask for ensemble, tensorrt_llm_bls or tensorrt_llm, or another model that this server has",
        )
    if any(fault in reason for fault in _FAULTS):
        return ServerFaultError(f"{address}: {model} cannot answer: {reason}", mend="send the request again")
    kind = OverloadedError if reason.endswith(": try later") else RequestRefusedError
    return kind(
        f"{address}: {model} refuses the request: {reason}",
        mend="correct what it objects to; the server's log may say more",
        reason=reason,
    )


def call_failure(code: str, details: str, *, address: str, chunks: int, deadline_s: float | None) -> SlipstreamError:
    """A gRPC call that ended with status `code`, after that many chunks."""
    came = f"after {chunks} chunks" if chunks else "before any token"
    if code == "UNAVAILABLE" and not chunks:
        kind = NotConnectedError if "failed to connect" in details else ConnectionLostError
        return kind(
            f"{address}: nothing answers there ({details})",
            mend="start it: slipstream up DEPLOYMENT; or give the address of Triton's gRPC port",
        )
    if code == "UNAVAILABLE":
        return ConnectionLostError(f"{address}: the connection broke {came} ({details})", mend="ask again")
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceededError(
            f"{address}: the reply was not complete within {deadline_s:g} s, it stopped {came}",
            mend="raise deadline_s, lower max_tokens, or look whether the server hangs: slipstream status",
        )
    return SlipstreamError(f"{address}: {code} {came}: {details}", mend="look into the server's log")
