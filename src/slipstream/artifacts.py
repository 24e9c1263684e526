"""Artifacts: what a stage made, from what, and whether that is still true.

A stage writes into a temporary directory beside its artifact; when it has succeeded, `manifest.json` is added and the
directory is renamed into place, so an artifact is either whole or absent. The manifest records exactly what the stage
depended on: the spec fields it read, the digests of its parents, the versions of the tools that decide its content.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from slipstream.errors import RejectedArtifactError, SlipstreamError, StaleArtifactError

MANIFEST = "manifest.json"
FORMAT = 1  # of manifest.json
NOT_INSTALLED = "not installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What the content of an artifact is a function of."""

    stage: str
    fields: Mapping[str, Any]  # dotted spec field → value
    parents: Mapping[str, str] = field(default_factory=dict)  # stage → digest
    tools: Mapping[str, str] = field(default_factory=dict)  # package → version

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of all of it, in hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A finished artifact on disk."""

    path: Path
    digest: str
    seconds: float  # that the stage took when it ran
    facts: Mapping[str, Any]  # what the stage reported: sizes, perplexities, …


class _File(BaseModel):
    bytes: int
    sha256: str | None = None  # None for a link


class _Manifest(BaseModel):
    """The content of manifest.json."""

    format: int
    digest: str
    depends_on: dict[str, Any]
    started: str
    finished: str
    seconds: float
    facts: dict[str, Any]
    files: dict[str, _File]


def read(path: Path, expected: Dependencies, *, mend: str, deep: bool = False) -> Artifact:
    """The artifact at `path`, which must be whole and made from `expected`.

    Sizes of all files are compared; `deep` compares their SHA-256 too.
    Raises StaleArtifactError naming what is missing, damaged or different, with `mend`.
    """
    manifest = _read_manifest(path, expected.stage, mend)
    difference = _difference(manifest.depends_on, expected)
    if difference is not None:
        raise StaleArtifactError(f"{path}: the {expected.stage} is stale: {difference}", mend=mend)
    _check_files(path, manifest.files, expected.stage, mend, deep=deep)
    return Artifact(path=path, digest=manifest.digest, seconds=manifest.seconds, facts=manifest.facts)


def write(path: Path, depends_on: Dependencies, make: Callable[[Path], Mapping[str, Any]]) -> Artifact:
    """Run `make(temporary_directory)` and rename the result to `path`; `make` returns the stage's facts.

    Whatever goes wrong (an error, Ctrl-C), the temporary directory is removed and an earlier artifact stays. With
    RejectedArtifactError what was made is kept beside `path`, as NAME.rejected and without a manifest.
    """
    temporary = path.with_name(f".{path.name}.partial")
    _create(temporary, path)
    started = time.time()
    try:
        facts = make(temporary)
        artifact = Artifact(
            path=path, digest=depends_on.digest, seconds=round(time.time() - started, 3), facts=dict(facts)
        )
        _write_manifest(temporary, artifact, depends_on, started)
        _replace(temporary, path)
    except RejectedArtifactError:
        _replace(temporary, rejected(path))
        raise
    except OSError as error:
        raise _write_error(path, depends_on.stage, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return artifact


def rejected(path: Path) -> Path:
    """Where an artifact lies that was made for `path` and did not pass."""
    return path.with_name(f"{path.name}.rejected")


@contextmanager
def locked(lock: Path, *, wait_s: float = 0) -> Iterator[None]:
    """Hold the lock of one deployment's artifacts; another holder is an error that names it."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        holder = FileLock(lock, timeout=wait_s)
        holder.acquire()
        lock.with_suffix(".pid").write_text(str(os.getpid()))
    except Timeout as error:
        raise SlipstreamError(
            f"{lock.parent}: another slipstream (pid {_holder(lock)}) is making artifacts of this deployment",
            mend="wait until it has finished, or use another directory with --out",
        ) from error
    except OSError as error:
        raise _write_error(lock.parent, "workspace", error) from error
    try:
        yield
    finally:
        lock.with_suffix(".pid").unlink(missing_ok=True)
        holder.release()


def _write_manifest(directory: Path, artifact: Artifact, depends_on: Dependencies, started: float) -> None:
    manifest = _Manifest(
        format=FORMAT,
        digest=artifact.digest,
        depends_on=asdict(depends_on),
        started=_utc(started),
        finished=_utc(started + artifact.seconds),
        seconds=artifact.seconds,
        facts=dict(artifact.facts),
        files={name: _describe(directory / name) for name in _files(directory)},
    )
    (directory / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")


def _read_manifest(path: Path, stage: str, mend: str) -> _Manifest:
    try:
        manifest = _Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise StaleArtifactError(f"{path}: there is no {stage} yet", mend=mend) from error
    except (OSError, ValueError) as error:
        raise StaleArtifactError(f"{path / MANIFEST}: unreadable, the {stage} is damaged", mend=mend) from error
    if manifest.format != FORMAT:
        raise StaleArtifactError(
            f"{path}: the {stage} has manifest format {manifest.format}, this version reads {FORMAT}", mend=mend
        )
    return manifest


def _difference(found: Mapping[str, Any], expected: Dependencies) -> str | None:
    """The first thing that differs, in words a person can act on; None if nothing does.

    A tool that is not installed here differs from nothing: a machine that only serves needs none of those that made it.
    """
    tools = {name: version for name, version in expected.tools.items() if version != NOT_INSTALLED}
    here = {"fields": expected.fields, "tools": tools, "parents": expected.parents}
    for kind, noun in (("fields", ""), ("tools", "tool "), ("parents", "parent ")):
        was, now = found.get(kind, {}), here[kind]
        for name in sorted(now if kind == "tools" else {*was, *now}):
            if was.get(name) != now.get(name):
                if kind == "parents":
                    return f"its {name} has been made again since"
                return f"{noun}{name} was {was.get(name)!r} when it was made, now it is {now.get(name)!r}"
    return None


def _check_files(path: Path, files: Mapping[str, _File], stage: str, mend: str, *, deep: bool) -> None:
    for name, described in files.items():
        file = path / name
        if not file.is_file():
            raise StaleArtifactError(f"{file}: missing, the {stage} is damaged", mend=mend)
        size = file.stat().st_size
        if size != described.bytes:
            raise StaleArtifactError(
                f"{file}: {size} bytes, {described.bytes} were written: the {stage} is damaged", mend=mend
            )
        if deep and described.sha256 is not None and sha256(file) != described.sha256:
            raise StaleArtifactError(f"{file}: its content has changed since: the {stage} is damaged", mend=mend)


def sha256(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _describe(file: Path) -> _File:
    """Size and digest of a file; of a link (weights of a local checkpoint, perhaps 140 GB) only the size."""
    return _File(bytes=file.stat().st_size, sha256=None if file.is_symlink() else sha256(file))


def _files(directory: Path) -> list[str]:
    return sorted(str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file())


def _create(temporary: Path, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    except OSError as error:
        raise _write_error(path, "artifact", error) from error


def _replace(temporary: Path, path: Path) -> None:
    """Put `temporary` in the place of `path`. A rename cannot replace a full directory, so the old one steps aside."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_error(path: Path, what: str, error: OSError) -> SlipstreamError:
    found = f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
    return SlipstreamError(
        f"{path}: the {what} cannot be written: {found}",
        mend="free disk space or make the directory writable, or choose another with --out",
    )


def _holder(lock: Path) -> str:
    try:
        return lock.with_suffix(".pid").read_text().strip() or "unknown"
    except OSError:
        return "unknown"


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
