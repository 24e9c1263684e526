"""What becomes of limits while the shared store fails."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Literal

from slipstream.gateway.limits.memory import MemoryStore
from slipstream.gateway.limits.values import Demand, LimitStore, Refused, Reserved, StoreFailedError

RETRY_S = 1.0


class GuardedStore:
    """A `LimitStore` over one that can fail.

    While it fails, it is asked once a second, so that requests do not wait for it one after the other. What comes
    meanwhile is counted in this process (`allow`), or `StoreFailedError` says that it cannot be (`refuse`).
    """

    def __init__(
        self,
        shared: LimitStore,
        *,
        on_failure: Literal["allow", "refuse"],
        on_event: Callable[[StoreFailedError], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared = shared
        self._own = MemoryStore() if on_failure == "allow" else None
        self._on_event = on_event  # of each call that failed
        self._clock = clock
        self._ask_again_at = -math.inf

    async def reserve(self, demand: Demand) -> Reserved | Refused:
        """See `LimitStore`."""
        try:
            return await self._reserve_shared(demand)
        except StoreFailedError:
            if self._own is None:
                raise
            return await self._own.reserve(demand)

    async def settle(self, reserved: Reserved, *, tokens: int, requests: int = 1) -> None:
        """See `LimitStore`; what the store does not hear of stays counted until its minute is over, or its day."""
        if reserved.store is not self._own and self._clock() < self._ask_again_at:
            return
        try:
            await reserved.store.settle(reserved, tokens=tokens, requests=requests)
        except StoreFailedError as error:
            self._on_event(error)

    async def close(self) -> None:
        """See `LimitStore`."""
        await self._shared.close()

    async def _reserve_shared(self, demand: Demand) -> Reserved | Refused:
        now_s = self._clock()
        if now_s < self._ask_again_at:
            raise StoreFailedError("failed a moment ago")
        if self._ask_again_at > -math.inf:
            self._ask_again_at = now_s + RETRY_S  # this request finds out for those that come beside it
        try:
            result = await self._shared.reserve(demand)
        except StoreFailedError as error:
            self._ask_again_at = self._clock() + RETRY_S
            self._on_event(error)
            raise
        self._ask_again_at = -math.inf
        return result
