"""Artifacts are whole or absent, and know what they were made from."""

from __future__ import annotations

import errno
import json
import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from slipstream import artifacts
from slipstream.artifacts import Artifact, Dependencies
from slipstream.errors import RejectedArtifactError, SlipstreamError, StaleArtifactError

MEND = "slipstream build x"


def dependencies(**changes: Any) -> Dependencies:
    values: dict[str, Any] = {
        "stage": "engine",
        "fields": {"engine.target": "openvino"},
        "parents": {"checkpoint": "c0"},
        "tools": {"openvino": "1"},
    }
    return Dependencies(**(values | changes))


def make(out: Path) -> Mapping[str, Any]:
    (out / "nested").mkdir()
    (out / "nested" / "weights.bin").write_bytes(b"12345")
    return {"layers": 3}


def written(tmp_path: Path) -> Artifact:
    return artifacts.write(tmp_path / "engine", dependencies(), make)


def staleness(path: Path, expected: Dependencies | None = None, *, deep: bool = False) -> str:
    with pytest.raises(StaleArtifactError) as caught:
        artifacts.read(path, expected or dependencies(), mend=MEND, deep=deep)
    assert caught.value.mend == MEND
    assert caught.value.exit_code == 3
    return caught.value.message


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    made = written(tmp_path)
    assert artifacts.read(tmp_path / "engine", dependencies(), mend=MEND, deep=True) == made
    assert made.facts == {"layers": 3}


def test_the_manifest_says_what_from_when_and_how_large(tmp_path: Path) -> None:
    manifest = json.loads((written(tmp_path).path / "manifest.json").read_text())
    assert manifest["depends_on"]["tools"] == {"openvino": "1"}
    assert manifest["files"]["nested/weights.bin"]["bytes"] == 5
    assert manifest["started"] <= manifest["finished"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fields": {"engine.target": "other"}}, "engine.target was 'openvino' when it was made, now it is 'other'"),
        ({"fields": {}}, "engine.target was 'openvino' when it was made, now it is None"),
        ({"tools": {"openvino": "2"}}, "tool openvino was '1' when it was made, now it is '2'"),
        ({"parents": {"checkpoint": "c1"}}, "its checkpoint has been made again since"),
    ],
)
def test_a_changed_dependency_is_named(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert expected in staleness(written(tmp_path).path, dependencies(**changes))


def test_a_tool_that_is_not_installed_makes_nothing_stale(tmp_path: Path) -> None:
    made = written(tmp_path)
    here = dependencies(tools={"openvino": artifacts.NOT_INSTALLED})
    assert artifacts.read(made.path, here, mend=MEND) == made


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path).path
    weights = path / "nested" / "weights.bin"
    weights.write_bytes(b"54321")
    artifacts.read(path, dependencies(), mend=MEND)
    assert "its content has changed" in staleness(path, deep=True)
    weights.write_bytes(b"1234")
    assert "4 bytes, 5 were written" in staleness(path)
    weights.unlink()
    assert "missing" in staleness(path)
    (path / "manifest.json").write_text('{"format": 1}')
    assert "damaged" in staleness(path)
    (path / "manifest.json").unlink()
    assert "there is no engine yet" in staleness(path)


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path).path
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    assert "manifest format 99" in staleness(path)


@pytest.mark.parametrize("failure", [RuntimeError("bug"), KeyboardInterrupt(), SlipstreamError("no", mend="yes")])
def test_a_failure_leaves_the_earlier_artifact_and_nothing_else(tmp_path: Path, failure: BaseException) -> None:
    made = written(tmp_path)

    def fail(out: Path) -> Mapping[str, Any]:
        (out / "half").write_text("x")
        raise failure

    with pytest.raises(type(failure)):
        artifacts.write(made.path, dependencies(fields={}), fail)
    assert artifacts.read(made.path, dependencies(), mend=MEND, deep=True) == made
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    def fill(out: Path) -> Mapping[str, Any]:
        raise OSError(errno.ENOSPC, "No space left on device", str(out / "weights.bin"))

    with pytest.raises(SlipstreamError, match="No space left on device") as caught:
        artifacts.write(tmp_path / "engine", dependencies(), fill)
    assert "free disk space" in caught.value.mend
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SlipstreamError, match="cannot be written"):
        artifacts.write(tmp_path / "file" / "engine", dependencies(), make)
    with pytest.raises(SlipstreamError, match="cannot be written"), artifacts.locked(tmp_path / "file" / ".lock"):
        pass


def test_leftovers_of_a_killed_run_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".engine.partial").mkdir()
    (tmp_path / ".engine.partial" / "half").write_text("x")
    (tmp_path / ".engine.old").mkdir()
    assert sorted(path.name for path in written(tmp_path).path.iterdir()) == ["manifest.json", "nested"]
    written(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_linked_weights_are_known_by_size_only(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"123")

    def link(out: Path) -> Mapping[str, Any]:
        (out / "weights").symlink_to(tmp_path / "source")
        return {}

    path = artifacts.write(tmp_path / "model", dependencies(), link).path
    assert json.loads((path / "manifest.json").read_text())["files"]["weights"] == {"bytes": 3, "sha256": None}
    artifacts.read(path, dependencies(), mend=MEND, deep=True)


def hold(lock: Path, held: Any, release: Any) -> None:
    with artifacts.locked(lock):
        held.set()
        release.wait(30)


def test_a_second_run_on_the_same_deployment_is_refused_by_name(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    lock = tmp_path / ".lock"
    process = context.Process(target=hold, args=(lock, held, release))
    process.start()
    try:
        assert held.wait(30)
        with pytest.raises(SlipstreamError, match=f"pid {process.pid}"), artifacts.locked(lock):
            pass
    finally:
        release.set()
        process.join()
    with artifacts.locked(lock):
        pass


def test_what_did_not_pass_is_kept_aside_and_the_earlier_artifact_stays(tmp_path: Path) -> None:
    earlier = written(tmp_path)

    def rejected(out: Path) -> Mapping[str, Any]:
        make(out)
        raise RejectedArtifactError("perplexity rose by 40 %, the limit is 5 %", mend="try fp8")

    with pytest.raises(RejectedArtifactError):
        artifacts.write(tmp_path / "engine", dependencies(), rejected)
    aside = artifacts.rejected(tmp_path / "engine")
    assert (aside / "nested" / "weights.bin").read_bytes() == b"12345"
    assert not (aside / "manifest.json").exists()  # nothing takes it for an artifact
    assert artifacts.read(tmp_path / "engine", dependencies(), mend=MEND, deep=True) == earlier
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine", "engine.rejected"]
