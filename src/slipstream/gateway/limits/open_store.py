"""The store of limits that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from slipstream.errors import SlipstreamError
from slipstream.gateway.limits.guarded_store import GuardedStore
from slipstream.gateway.limits.memory import MemoryStore
from slipstream.gateway.limits.redis_store import RedisStore, connect
from slipstream.gateway.limits.values import LimitStore
from slipstream.spec import GatewayLimitsSpec


def open_store(
    spec: GatewayLimitsSpec, environ: Mapping[str, str], on_failure: Callable[[str], None] = lambda _: None
) -> LimitStore:
    """A store to close when all is done; a Redis that is away now is asked again when there is something to count.

    `on_failure` hears the name of each failure of Redis.
    """
    if spec.store == "memory":
        return MemoryStore()
    client = connect(redis_url(spec, environ), timeout_s=spec.store_timeout_s)
    return GuardedStore(
        RedisStore(client, prefix=spec.redis_prefix),
        on_failure=spec.on_store_failure,
        on_event=lambda error: on_failure(str(error)),
    )


def where_counted(spec: GatewayLimitsSpec, environ: Mapping[str, str]) -> tuple[object, ...]:
    """Two settings for which this is equal can share a store."""
    if spec.store == "memory":
        return ("memory",)
    return (redis_url(spec, environ), spec.redis_prefix, spec.store_timeout_s, spec.on_store_failure)


def redis_url(spec: GatewayLimitsSpec, environ: Mapping[str, str]) -> str:
    """The URL of the server that `spec` names, password and all; SlipstreamError where it is missing."""
    if spec.redis_url_env is not None:
        if not (url := environ.get(spec.redis_url_env, "").strip()):
            raise SlipstreamError(
                f"gateway.limits.redis_url_env: {spec.redis_url_env} is not set", mend="set it to the URL of Redis"
            )
        return url
    assert spec.redis_url_file is not None, "the spec has seen to it"
    try:
        return Path(spec.redis_url_file).read_text().strip()
    except OSError as error:
        raise SlipstreamError(
            f"{spec.redis_url_file}: cannot be read ({error.strerror})", mend="put the URL of Redis into it"
        ) from error
