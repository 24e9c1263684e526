"""JSON web tokens of an identity provider in the place of keys.

One algorithm is taken, the configured one, with keys made for it: a token cannot choose how it is checked. Expiry,
issuer, audience and subject must be there and right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from slipstream.errors import SlipstreamError
from slipstream.gateway.caller import Caller
from slipstream.gateway.keys import Grant
from slipstream.gateway.watched_file import WatchedFile
from slipstream.spec import JwtSpec

_MIN_SECRET_BYTES = 32
_MAX_TOKEN_CHARACTERS = 8192
_MAX_NAME = 64
_KEY_TYPES = {"RS256": "RSA", "ES256": "EC"}
_MIN_RSA_BITS = 2048

_Keys = Mapping[str | None, Any]  # by `kid`; an HS256 secret under None


class TokenCheck:
    """Turns tokens into callers."""

    def __init__(self, spec: JwtSpec, path: Path) -> None:
        self._spec = spec
        read = _read_secret if spec.algorithm == "HS256" else lambda file: _read_jwks(file, spec.algorithm)
        self._keys: WatchedFile[_Keys] = WatchedFile(path, read, empty={})

    def find(self, token: str) -> Caller | None:
        """Whose token this is; none unless every claim is right."""
        import jwt

        if len(token) > _MAX_TOKEN_CHARACTERS:
            return None
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(header)
            if key is None or "crit" in header:
                return None
            claims = jwt.decode(
                token,
                key=key,
                algorithms=[self._spec.algorithm],
                issuer=self._spec.issuer,
                audience=self._spec.audience,
                leeway=self._spec.leeway_s,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            return self._caller(claims)
        except (jwt.PyJWTError, ValidationError, ValueError):
            return None

    def _key(self, header: Mapping[str, Any]) -> Any:
        keys = self._keys.get()
        if self._spec.algorithm == "HS256":
            return keys.get(None)
        kid = header.get("kid")
        if kid is None and len(keys) == 1:
            return next(iter(keys.values()))
        return keys.get(kid) if isinstance(kid, str) else None

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        subject = str(claims["sub"])
        grant = Grant.model_validate(claims.get(self._spec.claim, {}))
        # Subjects are long, and often somebody's address: what logs and metrics show is short and says nothing.
        digest = hashlib.sha256(f"{self._spec.issuer}\0{subject}".encode()).hexdigest()
        name = "".join(character for character in subject if character.isprintable())[:_MAX_NAME]
        return grant.caller(id=f"jwt-{digest[:16]}", name=name)


def _read_secret(path: Path) -> _Keys:
    secret = _read(path).strip()
    if len(secret) < _MIN_SECRET_BYTES:
        raise SlipstreamError(
            f"{path}: the secret has {len(secret)} bytes, HS256 needs {_MIN_SECRET_BYTES} or more",
            mend="make one: openssl rand -hex 32",
        )
    return {None: secret}


def _read_jwks(path: Path, algorithm: str) -> _Keys:
    import jwt

    try:
        found = orjson.loads(_read(path))["keys"]
        keys = {
            entry.get("kid"): jwt.PyJWK(entry, algorithm=algorithm).key
            for entry in found
            # A symmetric key here would let whoever knows the public file sign.
            if entry.get("kty") == _KEY_TYPES[algorithm] and entry.get("use", "sig") == "sig"
        }
    except (ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
        raise SlipstreamError(
            f"{path}: is no JWKS file ({type(error).__name__})", mend="save the provider's jwks_uri there"
        ) from error
    small = [key for key in keys.values() if getattr(key, "key_size", _MIN_RSA_BITS) < _MIN_RSA_BITS]
    if not keys or (small and algorithm == "RS256"):
        what = f"an RSA key under {_MIN_RSA_BITS} bits" if small else f"no {_KEY_TYPES[algorithm]} key to verify with"
        raise SlipstreamError(f"{path}: has {what}, {algorithm} needs one", mend="save the provider's jwks_uri there")
    return keys


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SlipstreamError(
            f"{path}: cannot be read ({error.strerror})", mend="correct gateway.security.jwt.key_file"
        ) from error
