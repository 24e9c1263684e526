"""The guards of a gateway, made of its settings and put around its application."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from slipstream.errors import SlipstreamError
from slipstream.gateway.audit import AuditLog
from slipstream.gateway.authentication import Authentication, Finder
from slipstream.gateway.body_limit import BodyLimit
from slipstream.gateway.keys import NO_KEYS, KeyFile
from slipstream.gateway.loopback_only import LoopbackOnly
from slipstream.gateway.observability.metrics import Metrics
from slipstream.gateway.observability.middleware import Observability
from slipstream.gateway.request_envelope import RequestEnvelope
from slipstream.gateway.watched_file import WatchedFile
from slipstream.gateway.web_tokens import TokenCheck
from slipstream.spec import GatewaySpec, SecuritySpec, is_loopback

_PREFLIGHT_AGE_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """Who is let in and what is written down; without `finders` no key is asked for."""

    finders: Sequence[Finder] = ()
    audit: AuditLog | None = None

    @classmethod
    def open(cls, spec: SecuritySpec, *, root: Path) -> Self:
        """Read the files that `spec` names, relative to `root`; whatever is wrong with them is a `SlipstreamError`."""
        finders: list[Finder] = []
        if spec.keys_file is not None:
            keys = WatchedFile(root / spec.keys_file, lambda path: KeyFile(path).keyring(), empty=NO_KEYS)
            finders.append(lambda text: keys.get().find(text))
        if spec.jwt is not None:
            finders.append(TokenCheck(spec.jwt, root / spec.jwt.key_file).find)
        audit = None
        if spec.audit is not None:
            audit = AuditLog(root / spec.audit.file, max_bytes=spec.audit.max_bytes, kept_files=spec.audit.kept_files)
        return cls(finders=finders, audit=audit)

    def close(self) -> None:
        """Let go of the audit log."""
        if self.audit is not None:
            self.audit.close()


def guard(app: FastAPI, security: Security, spec: GatewaySpec, metrics: Metrics) -> None:
    """Put the guards around `app`; a request meets envelope, loopback, CORS, authentication and body in this order."""
    settings, limits = spec.security, spec.connections
    # The one that is added last is met first.
    app.add_middleware(
        BodyLimit,
        limit_bytes=spec.max_body_bytes,
        limit_bytes_together=max(limits.max_bodies_bytes, spec.max_body_bytes),
        timeout_s=limits.body_timeout_s,
        max_depth=limits.max_json_depth,
    )
    if security.finders:
        app.add_middleware(Authentication, finders=security.finders, public_paths=settings.public_paths)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # keys travel in headers that a page must set itself: no cookie is ever asked for
            expose_headers=["*"],
            max_age=_PREFLIGHT_AGE_S,
        )
    if not security.finders:
        app.add_middleware(LoopbackOnly, allowed_origins=settings.cors_origins)
    app.add_middleware(Observability, metrics=metrics, spec=spec.observability)  # sees what the others refuse
    app.add_middleware(RequestEnvelope, audit=security.audit, is_https=settings.tls is not None)


def refuse_open_host(host: str, security: Security) -> None:
    """Raise `SlipstreamError` where others than this machine could ask without a key."""
    if not security.finders and not is_loopback(host):
        raise SlipstreamError(
            f"gateway.host: {host} can be reached from other machines, and no key is asked for",
            mend="make a key (slipstream keys add NAME) and set gateway.security.keys_file, or serve on 127.0.0.1",
        )
