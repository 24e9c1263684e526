"""How uvicorn is set up: the address, TLS, and the bounds of a connection."""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from slipstream.errors import SlipstreamError
from slipstream.gateway.guarded_http import GuardedHttp
from slipstream.spec import GatewaySpec, TlsSpec

_GRACE_S = 30


def uvicorn_config(app: FastAPI, spec: GatewaySpec, *, host: str, port: int, root: Path) -> uvicorn.Config:
    """The configuration of a server of `app`; certificates are relative to `root`."""
    tls = spec.security.tls
    context = None if tls is None else tls_context(tls, root)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        # uvicorn calls it with its own arguments, as it would call the class.
        http=cast("Any", partial(GuardedHttp, spec.connections)),
        ssl_context_factory=None if context is None else lambda _config, _default: context,
        ws_max_size=spec.max_body_bytes,
        timeout_keep_alive=spec.connections.idle_timeout_s,
        timeout_graceful_shutdown=_GRACE_S,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a client could write any address into the audit log
    )


def tls_context(tls: TlsSpec, root: Path) -> ssl.SSLContext:
    """TLS 1.2 or later with the certificate of `tls`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(root / tls.cert_file, root / tls.key_file, password=_no_password)
    except (OSError, ValueError) as error:
        raise SlipstreamError(
            f"gateway.security.tls: {root / tls.cert_file} and {root / tls.key_file} cannot be used ({error})",
            mend="give a PEM certificate and its private key, without a password, both readable",
        ) from error
    return context


def _no_password() -> str:
    raise ValueError("the key has a password")
