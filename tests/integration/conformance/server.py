"""The gateway that the clients are held against: the real model behind it, calls of tools in Hermes' form."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from slipstream.gateway.routing import Backends
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.services import Models, Services
from slipstream.spec import GatewaySpec, RoutingSpec
from slipstream.text.chat_template import ChatTemplate
from slipstream.text.tokenizer import Tokenizer
from tests.conftest import DEFAULT, Served
from tests.fakes.gateway import gateway


@contextlib.contextmanager
def conformance_gateway(served: Served) -> Iterator[str]:
    """Serve until left; gives the base URL."""
    with gateway(lambda: _services(served)) as url:
        yield url


def _services(served: Served) -> Services:
    model = ServedModel(
        name=DEFAULT,
        tokenizer=Tokenizer.load(served.model_dir),
        template=ChatTemplate.load(served.model_dir),
        max_input_tokens=2000,
        context_tokens=2048,
        backends=Backends((served.grpc,), RoutingSpec(probe_period_s=None)),
    )
    return Services(spec=GatewaySpec(tool_parser="hermes"), models=Models([model]))
