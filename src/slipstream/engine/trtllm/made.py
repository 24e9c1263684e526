"""What a build left in its directory, held against what was planned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipstream.engine.trtllm.plan import BuildPlan
from slipstream.errors import RejectedArtifactError, SlipstreamError

_MEND = "build again with the versions of docker/versions.env; if it happens again, report it with the build's log"
_ABSENT = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeEngine:
    """An engine directory that is whole."""

    version: str  # of TensorRT-LLM
    rank_bytes: tuple[int, ...]
    not_said: tuple[str, ...]  # planned values of which its config.json does not speak


def check_engine(plan: BuildPlan, directory: Path) -> MadeEngine:
    """See that `directory` holds every rank's engine and was built as planned.

    SlipstreamError for the first fault. A build takes hours: what was planned otherwise than it says is kept aside, and
    a value of which another 1.2 does not speak is no fault.
    """
    path = directory / "config.json"
    config = _read(path)
    version, build_config = config.get("version"), config.get("build_config")
    if not isinstance(version, str) or not isinstance(build_config, dict):
        raise SlipstreamError(
            f"{path}: version or build_config is missing: this is no engine's config.json", mend=_MEND
        )
    rank_bytes, not_said = tuple(_rank_sizes(plan, directory)), []
    for name, wanted, found in _differences(plan.expected, build_config, "build_config"):
        if found is not _ABSENT:
            raise RejectedArtifactError(
                f"{path}: {name} is {found!r}, planned was {wanted!r}; the engine is kept beside, as"
                f" {directory.name.removeprefix('.').removesuffix('.partial')}.rejected, and not used",
                mend=_MEND,
            )
        not_said.append(name)
    return MadeEngine(version=version, rank_bytes=rank_bytes, not_said=tuple(not_said))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SlipstreamError(
            f"{path}: cannot be read ({error.strerror}), though trtllm-build ended well", mend=_MEND
        ) from error
    except ValueError as error:
        raise SlipstreamError(f"{path}: is not JSON ({error})", mend=_MEND) from error
    if not isinstance(config, dict):
        raise SlipstreamError(f"{path}: holds no JSON object", mend=_MEND)
    return config


def _differences(wanted: Mapping[str, Any], found: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any, Any]]:
    for key, value in wanted.items():
        other = found.get(key, _ABSENT)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            yield from _differences(value, other, f"{name}.{key}")
        elif not _is(other, value):
            yield f"{name}.{key}", value, other


def _is(found: Any, wanted: Any) -> bool:
    """Whether two settings are one; a word counts in any case: TensorRT-LLM 1.1 wrote PAGED where 1.2 writes paged."""
    if isinstance(found, str) and isinstance(wanted, str):
        return found.casefold() == wanted.casefold()
    return bool(found == wanted)


def _rank_sizes(plan: BuildPlan, directory: Path) -> Iterator[int]:
    for rank in range(plan.world_size):
        path = directory / f"rank{rank}.engine"
        size = path.stat().st_size if path.is_file() else 0
        if size == 0:
            raise SlipstreamError(f"{path}: is missing or empty, the engine has {plan.world_size} ranks", mend=_MEND)
        yield size
