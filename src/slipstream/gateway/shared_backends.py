"""Backends that outlive a configuration: what is known of them, and their connections, pass on to the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from slipstream.errors import SlipstreamError
from slipstream.gateway.routing import Backends
from slipstream.gateway_config import GatewayConfig


@dataclass(slots=True, eq=False)
class _Shared:
    backends: Backends
    addresses: list[str]
    users: int = 0  # configurations

    async def serve_from(self, addresses: Sequence[str]) -> None:
        if set(addresses) != set(self.addresses):
            await self.backends.replace(addresses)
            self.addresses = list(addresses)


class SharedBackends:
    """The backends of every model of one process."""

    def __init__(self) -> None:
        self._by_model: dict[str, _Shared] = {}

    async def open(self, config: GatewayConfig, stack: AsyncExitStack) -> Mapping[str, Backends]:
        """Those of `config` by model, held until `stack` ends; new addresses get requests after their first token.

        Raises SlipstreamError when no new address of a model brings one; then all serve as before.
        """
        opened: dict[str, _Shared] = {}
        undo: list[tuple[_Shared, list[str]]] = []
        try:
            for upstream in config.upstreams:
                addresses = [backend.grpc for backend in upstream.backends]
                shared = self._by_model.get(upstream.name)
                if shared is None or shared.backends.spec != config.settings.routing:
                    shared = _Shared(Backends(addresses, config.settings.routing), addresses)
                opened[upstream.name] = shared
                shared.users += 1
                stack.push_async_callback(self._release, shared)
                undo.append((shared, shared.addresses))
                await shared.serve_from(addresses)
        except SlipstreamError:
            for shared, addresses in undo[:-1]:
                await shared.serve_from(addresses)
            raise
        self._by_model = opened
        return {model: shared.backends for model, shared in opened.items()}

    async def _release(self, shared: _Shared) -> None:
        shared.users -= 1
        if not shared.users:
            await shared.backends.close()
