"""Answers that are kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slipstream.spec.groups import Group


class CacheSpec(Group):
    """The cache of whole answers to requests that can only be answered one way."""

    store: Literal["memory", "redis"] = Field(
        "memory", description="`memory`: of each gateway process; `redis`: in the server of `limits`, for all of them"
    )
    ttl_s: float = Field(3600, ge=1, le=30 * 86_400, description="an answer is kept so long")
    max_bytes: int = Field(64 << 20, ge=1 << 16, le=1 << 40, description="of a cache in memory; the oldest goes first")
    max_answer_bytes: int = Field(1 << 20, ge=1024, le=64 << 20, description="a longer answer is not kept")
    shared: bool = Field(default=False, description="whether callers see each other's answers")
