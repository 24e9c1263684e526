"""API keys: who may ask, for which models, and how much.

A key is `sk-ID-SECRET`. The file holds the ID and an HMAC-SHA-256 of the whole key under a secret of the file, so that
neither the file nor a copy of it opens anything. Keys have 256 random bits: a slow hash, made for passwords that can
be guessed, would cost every request and protect nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipstream.errors import SlipstreamError
from slipstream.gateway.caller import Caller, CallerLimits, Priority
from slipstream.private_file import write_private

_PREFIX = "sk"


class KeyLimits(BaseModel):
    """What one key may ask for; none is no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    concurrent_requests: int | None = Field(None, ge=1)
    tokens_per_day: int | None = Field(None, ge=1)


class Grant(BaseModel):
    """What a key, or a token in its place, allows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[str, ...] | None = None  # all, if none
    weight: float = Field(1.0, gt=0, le=100)  # share of the engine when it is full
    priority: Priority = "normal"
    limits: KeyLimits = KeyLimits()

    def caller(self, *, id: str, name: str) -> Caller:
        return Caller(
            id=id,
            name=name,
            models=self.models,
            weight=self.weight,
            priority=self.priority,
            limits=CallerLimits(**self.limits.model_dump()),
        )


class Key(Grant):
    """One key, without its secret."""

    id: str = Field(pattern=r"^[a-z0-9]{8}$")
    name: str = Field(min_length=1, max_length=64)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: int  # seconds since the epoch

    def as_caller(self) -> Caller:
        return self.caller(id=self.id, name=self.name)


class _Stored(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid")

    secret: str = Field(pattern=r"^[0-9a-f]{64}$")
    keys: list[Key] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: the only time its secret is seen."""

    key: Key
    text: str


class KeyFile:
    """The keys in one file; every change is written at once, whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str, grant: Grant) -> NewKey:
        """Make a key and store its digest; the file is made when it is missing."""
        with self._locked():
            stored = self._read() if self.path.exists() else _Stored(secret=secrets.token_hex(32))
            key_id = secrets.token_hex(4)
            text = f"{_PREFIX}-{key_id}-{secrets.token_urlsafe(32)}"
            key = Key(
                id=key_id,
                name=name,
                digest=_digest(stored.secret, text),
                created=int(time.time()),
                models=grant.models,
                weight=grant.weight,
                priority=grant.priority,
                limits=grant.limits,
            )
            stored.keys.append(key)
            self._write(stored)
        return NewKey(key, text)

    def revoke(self, key_id: str) -> Key:
        """Remove the key; gateways that read the file refuse it within a second."""
        with self._locked():
            stored = self._read()
            found = next((key for key in stored.keys if key.id == key_id), None)
            if found is None:
                known = ", ".join(key.id for key in stored.keys) or "none"
                raise SlipstreamError(f"{self.path}: there is no key {key_id}", mend=f"give one of {known}")
            stored.keys.remove(found)
            self._write(stored)
        return found

    def keys(self) -> list[Key]:
        """All keys, oldest first."""
        return self._read().keys if self.path.exists() else []

    def keyring(self) -> Keyring:
        """The keys as they are now, for a gateway."""
        stored = self._read()
        return Keyring(stored.secret, {key.id: key for key in stored.keys})

    def _locked(self) -> FileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=10)

    def _read(self) -> _Stored:
        try:
            if self.path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise SlipstreamError(f"{self.path}: others can read it", mend=f"chmod 600 {self.path}")
            return _Stored.model_validate_json(self.path.read_bytes())
        except OSError as error:
            raise SlipstreamError(
                f"{self.path}: cannot be read ({error.strerror})", mend="make a key: slipstream keys add NAME"
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SlipstreamError(
                f"{self.path}: is no file of keys ({where}: {first['msg']})",
                mend="restore it, or remove it and make the keys again",
            ) from error

    def _write(self, stored: _Stored) -> None:
        write_private(self.path, (json.dumps(stored.model_dump(exclude_none=True), indent=2) + "\n").encode())


class Keyring:
    """Keys to hold a request against."""

    def __init__(self, secret: str, keys: dict[str, Key]) -> None:
        self._secret = secret
        self._keys = {key_id: (key.digest, key.as_caller()) for key_id, key in keys.items()}

    def find(self, text: str) -> Caller | None:
        """The owner of the key with this text; the comparison takes as long for a wrong one as for a right one."""
        parts = text.split("-", 2)
        expected, caller = self._keys.get(parts[1] if len(parts) == 3 else "", _NO_KEY)
        is_right = hmac.compare_digest(expected, _digest(self._secret, text))
        return caller if is_right else None


_NO_KEY: tuple[str, Caller | None] = ("0" * 64, None)
NO_KEYS = Keyring("00" * 32, {})  # lets nobody in


def _digest(secret: str, text: str) -> str:
    return hmac.new(bytes.fromhex(secret), text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()
