"""Responses that can be continued by their id, kept in memory for a while and within bounds."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from slipstream.spec import ResponsesSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """A response, and the conversation up to its end."""

    body: bytes  # the JSON object
    messages: list[dict[str, Any]]  # without instructions, which do not carry over

    @property
    def size(self) -> int:
        """Bytes, about."""
        return len(self.body) + sum(64 + len(str(message)) for message in self.messages)


@dataclass(frozen=True, slots=True)
class _Entry:
    stored: StoredResponse
    size: int
    expires_at: float


class ResponseMemory:
    """What each caller has stored; nobody sees, and nobody displaces by size alone, what is another's."""

    def __init__(self, spec: ResponsesSpec | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.spec = spec or ResponsesSpec()  # a reload may bring another; what is stored stays
        self._clock = clock
        self._callers: OrderedDict[str, OrderedDict[str, _Entry]] = OrderedDict()  # the one that stored last is last
        self._sizes: dict[str, int] = {}
        self._total = 0

    def put(self, caller: str, response_id: str, stored: StoredResponse) -> None:
        """Keep `stored`; what is over the limits goes, oldest first, the caller's own before others'."""
        size = stored.size
        if size > self.spec.stored_bytes_per_caller or self.spec.stored_s == 0:
            return
        own = self._callers.setdefault(caller, OrderedDict())
        self._callers.move_to_end(caller)
        stored = replace(stored, body=bytes(memoryview(stored.body)))  # orjson's own takes 8 KiB, however short it is
        own[response_id] = _Entry(stored, size, self._clock() + self.spec.stored_s)
        self._sizes[caller] = self._sizes.get(caller, 0) + size
        self._total += size
        while self._sizes[caller] > self.spec.stored_bytes_per_caller:
            self._drop(caller, next(iter(own)))
        while self._total > self.spec.stored_bytes:
            oldest = next(iter(self._callers))
            self._drop(oldest, next(iter(self._callers[oldest])))

    def get(self, caller: str, response_id: str) -> StoredResponse | None:
        """The response, if it was this caller's and is still kept."""
        own = self._callers.get(caller)
        entry = None if own is None else own.get(response_id)
        if entry is not None and entry.expires_at <= self._clock():
            self._drop(caller, response_id)
            return None
        return None if entry is None else entry.stored

    def remove(self, caller: str, response_id: str) -> bool:
        """Forget the response; False if there is none."""
        if self.get(caller, response_id) is None:
            return False
        self._drop(caller, response_id)
        return True

    def _drop(self, caller: str, response_id: str) -> None:
        size = self._callers[caller].pop(response_id).size
        self._sizes[caller] -= size
        self._total -= size
        if not self._callers[caller]:
            del self._callers[caller], self._sizes[caller]
