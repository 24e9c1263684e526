"""How uvicorn is set up: the address, TLS, and the bounds of a connection."""

from __future__ import annotations

import logging
import resource
import ssl
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from slipstream.errors import SlipstreamError
from slipstream.gateway.guarded_http import GuardedHttp
from slipstream.gateway.guarded_socket import GuardedSocket
from slipstream.spec import GatewaySpec, TlsSpec

_OTHER_FILES = 256  # backends, logs, libraries
_log = logging.getLogger(__name__)
_GRACE_S = 1  # for what the end of the drain cuts off: running requests have had their time before


def uvicorn_config(app: ASGIApp, spec: GatewaySpec, *, host: str, port: int, root: Path) -> uvicorn.Config:
    """The configuration of a server of `app`; certificates are relative to `root`."""
    tls = spec.security.tls
    context = None if tls is None else tls_context(tls, root)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        lifespan="off",  # what a configuration opens belongs to it, not to the server
        http=_protocol(spec),
        ws=_socket_protocol(spec),
        ssl_context_factory=None if context is None else lambda _config, _default: context,
        ws_max_size=spec.max_body_bytes,
        timeout_keep_alive=spec.connections.idle_timeout_s,
        timeout_graceful_shutdown=_GRACE_S,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a client could write any address into the audit log
    )


def renew(config: uvicorn.Config, spec: GatewaySpec, *, root: Path) -> None:
    """Let new connections have the bounds and the certificate of `spec`; whether there is TLS cannot change."""
    if config.ssl is not None and spec.security.tls is not None:
        _load_certificate(config.ssl, spec.security.tls, root)
    config.http_protocol_class = _protocol(spec)
    config.ws_protocol_class = _socket_protocol(spec)
    config.timeout_keep_alive = spec.connections.idle_timeout_s


def _protocol(spec: GatewaySpec) -> Any:
    # uvicorn calls it with its own arguments, as it would call the class.
    return cast("Any", partial(GuardedHttp, spec.connections))


def _socket_protocol(spec: GatewaySpec) -> Any:
    return cast("Any", partial(GuardedSocket, spec.connections))


def allow_connections(count: int) -> None:
    """Raise this process's limit of open files to what `count` connections need, as far as the system lets it."""
    wanted = count + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _log.warning("the system allows %d open files: fewer than gateway.connections.max_connections needs", allowed)


def tls_context(tls: TlsSpec, root: Path) -> ssl.SSLContext:
    """TLS 1.2 or later with the certificate of `tls`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    _load_certificate(context, tls, root)
    return context


def _load_certificate(context: ssl.SSLContext, tls: TlsSpec, root: Path) -> None:
    try:
        context.load_cert_chain(root / tls.cert_file, root / tls.key_file, password=_no_password)
    except (OSError, ValueError) as error:
        raise SlipstreamError(
            f"gateway.security.tls: {root / tls.cert_file} and {root / tls.key_file} cannot be used ({error})",
            mend="give a PEM certificate and its private key, without a password, both readable",
        ) from error


def _no_password() -> str:
    raise ValueError("the key has a password")
