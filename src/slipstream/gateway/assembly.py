"""The parts of a gateway, made from its configuration: one function, to which each part adds a line."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from slipstream.client import AsyncTritonClient
from slipstream.errors import SlipstreamError
from slipstream.gateway.lifecycle import Lifecycle, Readiness
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.services import Models, Services
from slipstream.gateway_config import GatewayConfig, UpstreamConfig
from slipstream.spec import GatewaySpec
from slipstream.text.chat_template import ChatTemplate
from slipstream.text.tokenizer import Tokenizer


async def assemble(
    config: GatewayConfig, stack: AsyncExitStack, before: Services | None, lifecycle: Lifecycle
) -> Services:
    """The services for `config`; what they open is closed with `stack`, when their last request has ended.

    After a reload, `before` are the services of the configuration until now, which go on with their running requests:
    a part that counts or remembers takes over what it needs (values; never what `before`'s own stack closes). Raises
    SlipstreamError for what cannot be served; then everything stays as it was.
    """
    spec = config.settings
    models = [await _open(upstream, spec, stack) for upstream in config.upstreams]
    return Services(
        spec=spec,
        models=Models(models),
        lifecycle=lifecycle,
        readiness=before.readiness if before else Readiness(),
    )


async def _open(upstream: UpstreamConfig, spec: GatewaySpec, stack: AsyncExitStack) -> ServedModel:
    # Reading a large tokenizer takes a second, in which the streams of the configuration before go on.
    tokenizer = await asyncio.to_thread(Tokenizer.load, upstream.model_dir)
    try:
        template = ChatTemplate.load(upstream.model_dir)
    except SlipstreamError:  # a base model has none
        template = None
    return ServedModel(
        name=upstream.name,
        tokenizer=tokenizer,
        template=template,
        max_input_tokens=upstream.max_input_tokens,
        context_tokens=upstream.context_tokens,
        triton=await stack.enter_async_context(
            AsyncTritonClient(upstream.backends[0].grpc, deadline_s=spec.request_timeout_s)
        ),
    )
