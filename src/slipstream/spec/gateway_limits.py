"""What a caller may ask for who has no limits of its own, and where it is counted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from slipstream.spec.groups import AbsolutePath, Group

Limit = Annotated[int, Field(ge=1, le=10**12)]


class GatewayLimitsSpec(Group):
    """Limits of each caller; null is no limit, and a limit that a key has itself goes first."""

    requests_per_minute: Limit | None = Field(None, description="in any 60 seconds")
    tokens_per_minute: Limit | None = Field(None, description="prompt and output, in any 60 seconds")
    concurrent_requests: Limit | None = Field(None, description="that wait or run at one time")
    tokens_per_day: Limit | None = Field(None, description="prompt and output, from midnight to midnight UTC")
    store: Literal["memory", "redis"] = Field(
        "memory", description="`memory`: each gateway process counts by itself; `redis`: all of them together"
    )
    redis_url_file: AbsolutePath | None = Field(
        None, description="file with the URL of the Redis or Valkey server, password and all"
    )
    redis_url_env: str | None = Field(
        None,
        pattern=r"^[A-Z_][A-Z0-9_]*$",
        max_length=128,
        description="environment variable with that URL, in place of a file",
    )
    redis_prefix: str = Field("slipstream", pattern=r"^[\w.:-]+$", max_length=64, description="of all keys in Redis")
    store_timeout_s: float = Field(1.0, gt=0, le=10, description="what takes Redis longer counts as a failure of it")
    on_store_failure: Literal["allow", "refuse"] = Field(
        "allow",
        description="while Redis fails: `allow` lets each gateway process count by itself, `refuse` answers 503",
    )

    @model_validator(mode="after")
    def _redis_has_one_url(self) -> GatewayLimitsSpec:
        given = [name for name in ("redis_url_file", "redis_url_env") if getattr(self, name) is not None]
        if self.store == "redis" and len(given) != 1:
            found = " and ".join(given) or "neither"
            raise ValueError(f"store is redis, it needs redis_url_file or redis_url_env, found {found}")
        if self.store == "memory" and given:
            raise ValueError(f"{given[0]} is given, store is memory: set store to redis")
        return self
