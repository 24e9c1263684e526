"""The two files between a gateway process and who runs it: its configuration, and what it said to that."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipstream.errors import SlipstreamError
from slipstream.private_file import write_private
from slipstream.spec import BackendSpec, GatewaySpec, Group
from slipstream.spec.groups import Port

CONFIG_FILE = "gateway.json"  # in the run directory of a deployment


class UpstreamConfig(Group):
    """A model that is served: its Tritons, its model directory and its limits."""

    name: str
    backends: tuple[BackendSpec, ...] = Field(min_length=1)
    model_dir: Path
    max_input_tokens: int
    context_tokens: int
    digest: str | None = None  # over everything that decides its answers, if that is known
    is_deterministic: bool = False
    kv_tokens: int | None = None  # of all its Tritons together; none is not known
    choices: int | None = None  # that run at one time


class GatewayConfig(Group):
    """Everything a gateway knows when it starts."""

    root: Path  # of the project: files that the settings name are relative to it
    port: Port
    upstreams: tuple[UpstreamConfig, ...] = Field(min_length=1)
    settings: GatewaySpec

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        host = self.settings.host
        if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
            host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
        scheme = "http" if self.settings.security.tls is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def stop_within_s(self) -> float:
        """The longest that it may take to end when it is told to."""
        return self.settings.drain_delay_s + self.settings.drain_timeout_s + 5


def write_config(path: Path, config: GatewayConfig) -> None:
    """Write it whole or not at all, for this user's eyes only."""
    write_private(path, config.model_dump_json(indent=2).encode())


def read_config(path: Path) -> GatewayConfig:
    """The configuration at `path`; SlipstreamError names its first fault."""
    try:
        return GatewayConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SlipstreamError(
            f"{path}: cannot be read ({error.strerror})", mend="serve writes it: slipstream up DEPLOYMENT"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SlipstreamError(
            f"{path}: {where or 'the file'}: {first['msg']}",
            mend="let serve write it again: slipstream reload DEPLOYMENT",
        ) from error


class Outcome(BaseModel):
    """What a running gateway made of the configurations that it was given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    loads: int = 1  # configurations that it was given
    message: str = ""  # why it goes on with the one before the last
    mend: str = ""


def write_outcome(config_file: Path, outcome: Outcome) -> None:
    write_private(outcome_file(config_file), outcome.model_dump_json().encode())


def read_outcome(config_file: Path) -> Outcome | None:
    """What the gateway of that configuration file says; None where none runs yet."""
    try:
        return Outcome.model_validate_json(outcome_file(config_file).read_bytes())
    except (OSError, ValidationError):
        return None


def outcome_file(config_file: Path) -> Path:
    return config_file.with_suffix(".outcome.json")
