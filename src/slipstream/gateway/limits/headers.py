"""Limits as OpenAI's API shows them: `x-ratelimit-*`, `retry-after`, and the errors."""

from __future__ import annotations

import math

from slipstream.gateway.caller import CallerLimits
from slipstream.gateway.errors import ApiError
from slipstream.gateway.limits.values import LimitName, Refused, Standing

_WORDS: dict[LimitName, str] = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "tokens_per_day": "tokens a day",
    "concurrent_requests": "requests at one time",
}


def rate_headers(limits: CallerLimits, standing: Standing) -> dict[str, str]:
    """What is left of the limits that there are; of the two of tokens, the one of which less is left."""
    headers: dict[str, str] = {}
    if limits.requests_per_minute is not None:
        headers |= _headers("requests", limits.requests_per_minute, standing.requests, standing.requests_reset_s)
    of_tokens = [
        (limit - used, limit, used, reset_s)
        for limit, used, reset_s in (
            (limits.tokens_per_minute, standing.tokens, standing.tokens_reset_s),
            (limits.tokens_per_day, standing.tokens_today, standing.day_reset_s),
        )
        if limit is not None
    ]
    if of_tokens:
        _, limit, used, reset_s = min(of_tokens)
        headers |= _headers("tokens", limit, used, reset_s)
    return headers


def refusal(refused: Refused, limits: CallerLimits, *, tokens: int) -> ApiError:
    """The answer to a request over a limit, counted nowhere."""
    limit, standing = getattr(limits, refused.limit), refused.standing
    used = {
        "requests_per_minute": standing.requests,
        "tokens_per_minute": standing.tokens,
        "tokens_per_day": standing.tokens_today,
        "concurrent_requests": standing.running,
    }[refused.limit]
    wants = f", this one asks for up to {tokens}" if refused.limit.startswith("tokens") else ""
    wait_s = max(1, math.ceil(refused.retry_after_s))
    return ApiError(
        429,
        f"the limit is {limit} {_WORDS[refused.limit]}, {used} are taken{wants}; try again in {duration(wait_s)}",
        code="insufficient_quota" if refused.limit == "tokens_per_day" else "rate_limit_exceeded",
        headers={**rate_headers(limits, standing), "retry-after": str(wait_s)},
    )


def too_large(limits: CallerLimits, *, tokens: int) -> ApiError | None:
    """The answer to a request that no waiting helps, because it asks for more than a whole limit."""
    of_tokens = {
        "tokens_per_minute": limits.tokens_per_minute,
        "tokens_per_day": limits.tokens_per_day,
    }
    name, limit = min(
        ((name, limit) for name, limit in of_tokens.items() if limit is not None),
        key=lambda pair: pair[1],
        default=("", tokens),
    )
    if tokens <= limit:
        return None
    words = "tokens a minute" if name == "tokens_per_minute" else "tokens a day"
    return ApiError(
        429,
        f"the request asks for up to {tokens} tokens, prompt and max_tokens together, the limit is {limit} {words};"
        f" shorten the prompt or lower max_tokens by {tokens - limit}",
        param="max_tokens",
        code="rate_limit_exceeded",
        headers={"x-should-retry": "false"},  # which OpenAI's and Anthropic's SDKs obey
    )


def duration(seconds: float) -> str:
    """Whole seconds in OpenAI's form: `0s`, `59s`, `6m0s`, `23h59m1s`."""
    minutes, rest_s = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest_s}s"
    return f"{minutes}m{rest_s}s" if minutes else f"{rest_s}s"


def _headers(of: str, limit: int, used: int, reset_s: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{of}": str(limit),
        f"x-ratelimit-remaining-{of}": str(max(0, limit - used)),
        f"x-ratelimit-reset-{of}": duration(reset_s),
    }
