"""A gateway on a free port, in a thread of the test: real HTTP in front, a `FakeTriton` or a real one behind."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvicorn
import uvloop

from slipstream.gateway.app import create_app
from slipstream.gateway.listening import uvicorn_config
from slipstream.gateway.routing import Backends
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.services import Models, Services
from slipstream.spec import GatewaySpec, RoutingSpec
from slipstream.text.chat_template import ChatTemplate
from tests.unit.small_tokenizers import byte_level

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def a_model(
    triton_grpc: str | Sequence[str], name: str = "small", *, routing: RoutingSpec | None = None
) -> ServedModel:
    """A model with a byte-level tokenizer behind the Tritons at `triton_grpc`; call it inside the gateway's loop."""
    return ServedModel(
        name=name,
        tokenizer=byte_level(),
        template=ChatTemplate(TEMPLATE, special_tokens={}),
        max_input_tokens=1000,
        context_tokens=1024,
        # No probes: what a fake receives is what a test sends.
        backends=Backends(
            [triton_grpc] if isinstance(triton_grpc, str) else triton_grpc, routing or RoutingSpec(probe_period_s=None)
        ),
    )


def services_for(triton_grpc: str, spec: GatewaySpec | None = None) -> Callable[[], Services]:
    """The services of one small model, to be made inside the loop of the gateway."""
    return lambda: Services(spec=spec or GatewaySpec(), models=Models([a_model(triton_grpc)]))


@contextlib.contextmanager
def gateway(make_services: Callable[[], Services]) -> Iterator[str]:
    """Serve until left; gives the base URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        port = listener.getsockname()[1]
        servers: list[uvicorn.Server] = []

        async def run() -> None:
            services = make_services()
            config = uvicorn_config(create_app(services), services.spec, host="127.0.0.1", port=0, root=Path())
            servers.append(uvicorn.Server(config))
            await servers[0].serve(sockets=[listener])

        thread = threading.Thread(target=lambda: uvloop.run(run()), name="gateway")
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            servers[0].should_exit = True
            thread.join(timeout=10)
