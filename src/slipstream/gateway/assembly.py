"""The parts of a gateway, made from its configuration: one function, to which each part adds a line."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from slipstream.errors import SlipstreamError
from slipstream.gateway.caching.opening import open_cache, open_embedding_cache
from slipstream.gateway.lifecycle import Lifecycle, Readiness
from slipstream.gateway.observability.metrics import Metrics
from slipstream.gateway.queueing.capacity import Capacity
from slipstream.gateway.responses.memory import ResponseMemory
from slipstream.gateway.routing import Backends
from slipstream.gateway.security import Security, refuse_open_host
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.services import Models, Services
from slipstream.gateway.shared_admission import SharedAdmission
from slipstream.gateway.shared_backends import SharedBackends
from slipstream.gateway_config import GatewayConfig, UpstreamConfig
from slipstream.text.chat_template import ChatTemplate
from slipstream.text.tokenizer import Tokenizer

_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")


class Assembly:
    """Makes the services of one configuration after the other, in one process."""

    def __init__(self, lifecycle: Lifecycle, environ: Mapping[str, str]) -> None:
        self._lifecycle = lifecycle
        self._environ = environ
        self._metrics = Metrics()
        self._admission = SharedAdmission(self._metrics)
        self._backends = SharedBackends()
        self._texts: dict[Path, _Text] = {}

    async def services(self, config: GatewayConfig, stack: AsyncExitStack, before: Services | None) -> Services:
        """The services for `config`; what they open is closed with `stack`, when their last request has ended.

        After a reload, `before` are the services of the configuration until now, which go on with their running
        requests: a part that counts or remembers takes over what it needs, but nothing that the stack of `before`
        closes. Raises SlipstreamError for what cannot be served; then everything stays as it was.
        """
        spec = config.settings
        security = Security.open(spec.security, root=config.root)
        stack.callback(security.close)
        refuse_open_host(spec.host, security)
        self._texts = {one.model_dir: await self._text(one.model_dir) for one in config.upstreams}
        limits_store = self._admission.open_store(spec, self._environ, stack)
        # The last step that can fail: it changes what the configuration before is served by, too.
        backends = await self._backends.open(config, stack)
        models = [_model(one, self._texts[one.model_dir], backends[one.name]) for one in config.upstreams]
        return Services(
            spec=spec,
            models=Models(models),
            embedding_cache=open_embedding_cache(spec, self._metrics, before.embedding_cache if before else None),
            cache=open_cache(spec, self._environ, self._metrics, stack, before.cache if before else None),
            admission=self._admission.admission(spec, limits_store),
            metrics=self._metrics,
            security=security,
            responses=before.responses if before else ResponseMemory(),
            lifecycle=self._lifecycle,
            readiness=before.readiness if before else Readiness(),
        )

    async def _text(self, model_dir: Path) -> _Text:
        """As it was read for the configuration before, if it has not changed: a large one takes a second to read."""
        known = self._texts.get(model_dir)
        if known is not None and known.stamp == _stamp(model_dir):
            return known
        return await asyncio.to_thread(_read, model_dir)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    """How one model directory makes tokens of text."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    stamp: tuple[int, ...]


def _read(model_dir: Path) -> _Text:
    stamp = _stamp(model_dir)
    try:
        template = ChatTemplate.load(model_dir)
    except SlipstreamError:  # a base model has none
        template = None
    return _Text(tokenizer=Tokenizer.load(model_dir), template=template, stamp=stamp)


def _stamp(model_dir: Path) -> tuple[int, ...]:
    files = [model_dir / name for name in _TEXT_FILES]
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)


def _model(upstream: UpstreamConfig, text: _Text, backends: Backends) -> ServedModel:
    return ServedModel(
        name=upstream.name,
        tokenizer=text.tokenizer,
        template=text.template,
        max_input_tokens=upstream.max_input_tokens,
        context_tokens=upstream.context_tokens,
        backends=backends,
        digest=upstream.digest,
        is_deterministic=upstream.is_deterministic,
        capacity=Capacity(kv_tokens=upstream.kv_tokens, choices=upstream.choices),
    )
