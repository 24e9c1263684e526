"""The backends of a new configuration: where it can be, those of the one before, with their load and memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from slipstream.gateway.routing.backends import Backends
from slipstream.spec import RoutingSpec


async def reloaded(
    before: Backends | None, addresses: Sequence[str], spec: RoutingSpec, stack: AsyncExitStack
) -> Backends:
    """Backends at `addresses`, held until `stack` is closed; `before` are those of the same model until now.

    Addresses that are new beside `before` are used from their first token on. None of the old ones is left yet:
    `Backends.keep(addresses)` does that, once nothing can make the new configuration fail; if it fails, closing
    `stack` leaves the new ones. `SlipstreamError` if none of `addresses` is up.
    """
    if before is None:
        backends = Backends(addresses, spec)
    elif before.spec == spec:
        backends = before
    else:
        backends = Backends(before.addresses, spec)
    backends.hold(addresses)
    stack.push_async_callback(backends.release, addresses)
    await backends.join(addresses)
    return backends
