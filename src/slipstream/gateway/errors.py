"""Failures as OpenAI's API reports them: a status, and a JSON object with message, type, param and code."""

from __future__ import annotations

from collections.abc import Mapping

from slipstream.client.failures import DeadlineExceededError, OverloadedError, RequestRefusedError
from slipstream.errors import SlipstreamError

_TYPES = {429: "rate_limit_error"}  # OpenAI has `invalid_request_error` for 401 and 403 too


class ApiError(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param  # the request's field that is at fault
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, object]:
        """The JSON object of the answer; also the last event of a stream that broke."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def unsupported(param: str, found: object, mend: str) -> ApiError:
    """`param` asks for what this model or server cannot do."""
    return ApiError(400, f"{param}: {found!r} is not supported here; {mend}", param=param, code="unsupported_value")


def from_failure(error: SlipstreamError) -> ApiError:
    """What Triton or the way to it said, for the client of the gateway.

    A refusal goes out in the engine's words, which name tensors and limits. Where the server is, and how it failed, is
    for the log alone.
    """
    if isinstance(error, OverloadedError):
        return ApiError(429, error.reason, code="overloaded", headers={"retry-after": "1"})
    if isinstance(error, RequestRefusedError):
        return ApiError(400, error.reason)
    if isinstance(error, DeadlineExceededError):
        return ApiError(504, "the reply was not complete in time", code="deadline_exceeded")
    return ApiError(503, "the model is not available: try again", code="unavailable", headers={"retry-after": "1"})
