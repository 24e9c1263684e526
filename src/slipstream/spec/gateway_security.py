"""Who may ask the gateway, over what kind of connection, and what is written down about it."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field

from slipstream.spec.groups import Group

FileName = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f]+$")]
Origin = Annotated[
    str, Field(pattern=r"^https?://[A-Za-z0-9.\-]+(:[0-9]{1,5})?$|^https?://\[[0-9a-fA-F:]+\](:[0-9]{1,5})?$")
]
# A path, or all paths below one: `/health/live`, `/assets/*`.
PublicPath = Annotated[str, Field(pattern=r"^/[A-Za-z0-9._\-/]*\*?$", max_length=256)]


class JwtSpec(Group):
    """Tokens of an identity provider; they must have expiry, issuer, audience and subject."""

    algorithm: Literal["HS256", "RS256", "ES256"] = Field(description="the only one that is taken")
    key_file: FileName = Field(description="HS256: a secret of 32 bytes or more; RS256, ES256: a JWKS file")
    issuer: str = Field(min_length=1, max_length=1024, description="what `iss` must be")
    audience: str = Field(min_length=1, max_length=1024, description="what `aud` must be or hold")
    claim: str = Field(
        "slipstream",
        min_length=1,
        max_length=256,
        description="the claim with models, weight, priority and limits, as `slipstream keys` has them",
    )
    leeway_s: int = Field(10, ge=0, le=300, description="how far the clocks may be apart")


class TlsSpec(Group):
    """HTTPS, version 1.2 or later."""

    cert_file: FileName = Field(description="the certificate, then those above it (PEM)")
    key_file: FileName = Field(description="its private key (PEM)")


class AuditSpec(Group):
    """A line of JSON for each request: who, what, model, tokens, status, when; never texts or keys."""

    file: FileName = Field(description="is appended to, readable by its owner alone")
    max_bytes: int = Field(64 << 20, ge=4096, le=1 << 40, description="a larger file is set aside as FILE.1")
    kept_files: int = Field(10, ge=1, le=1000, description="older ones that are kept: FILE.1 to FILE.N")


class SecuritySpec(Group):
    """Without keys or tokens the gateway serves on loopback only."""

    keys_file: FileName | None = Field(None, description="made by `slipstream keys add`; read again when it changes")
    jwt: JwtSpec | None = Field(None, description="tokens of an identity provider")
    tls: TlsSpec | None = Field(None, description="serve HTTPS instead of HTTP")
    audit: AuditSpec | None = Field(None, description="write down every request")
    public_paths: tuple[PublicPath, ...] = Field(
        ("/", "/playground/*", "/health/live", "/health/ready"),
        strict=False,
        max_length=64,
        description="what needs no key",
    )
    cors_origins: tuple[Origin, ...] = Field(
        (), strict=False, max_length=64, description="web pages that may ask, `https://host:port`; else none may"
    )

    @property
    def asks_for_keys(self) -> bool:
        return self.keys_file is not None or self.jwt is not None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`, a name or an address without a port."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
