"""The committed renderings: fresh, and a stale one is named by file and line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from slipstream.errors import StaleArtifactError
from slipstream.repository.references import REFERENCES, check_references, check_rendering, render_references
from slipstream.repository.verify import verify_repository
from slipstream.spec_file import deployment_names


def refusal(committed: Path, fresh: Path) -> str:
    with pytest.raises(StaleArtifactError) as caught:
        check_rendering(committed, fresh)
    assert caught.value.mend == "run slipstream render --references"
    return caught.value.message


@pytest.fixture
def committed(root: Path, tmp_path: Path) -> Path:
    """A copy of the default deployment's committed rendering."""
    return shutil.copytree(root / "model_repository", tmp_path / "committed")


def test_the_committed_renderings_are_fresh(root: Path) -> None:
    check_references(root)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_the_committed_renderings_keep_the_contract(root: Path, name: str) -> None:
    verify_repository(root / REFERENCES[name])


def test_every_deployment_for_a_gpu_has_a_committed_rendering(root: Path) -> None:
    assert set(REFERENCES) == set(deployment_names(root))


def test_a_changed_line_is_named(root: Path, committed: Path) -> None:
    path = committed / "ensemble" / "config.pbtxt"
    lines = path.read_text().splitlines()
    lines[2] = "max_batch_size: 65"
    path.write_text("\n".join(lines))
    message = refusal(committed, root / "model_repository")
    assert message == f"{path}:3: not fresh: 'max_batch_size: 65' is committed, 'max_batch_size: 64' is rendered"


def test_a_rendering_that_ends_early_is_named(root: Path, committed: Path) -> None:
    path = committed / "tensorrt_llm" / "1" / "model.py"
    path.write_text(path.read_text().splitlines()[0])
    assert refusal(committed, root / "model_repository").startswith(f"{path}:2: not fresh: 'the end of the file'")


def test_a_missing_file_is_named(root: Path, committed: Path) -> None:
    path = committed / "ensemble" / "1" / ".gitkeep"
    path.unlink()
    assert refusal(committed, root / "model_repository") == f"{path}: the committed rendering lacks this file"


def test_a_file_too_many_is_named(root: Path, committed: Path) -> None:
    path = committed / "preprocessing" / "1" / "other.py"
    path.touch()
    assert refusal(committed, root / "model_repository") == f"{path}: a fresh rendering does not have this file"


def test_rendering_again_mends_what_was_stale_and_keeps_the_readme(root: Path, tmp_path: Path) -> None:
    for name in ("deployments", "model_repository"):
        shutil.copytree(root / name, tmp_path / name)
    (tmp_path / "model_repository" / "old_model").mkdir()
    (tmp_path / "model_repository" / "ensemble" / "config.pbtxt").write_text("stale")
    with pytest.raises(StaleArtifactError):
        check_references(tmp_path)
    render_references(tmp_path)
    check_references(tmp_path)
    assert not (tmp_path / "model_repository" / "old_model").exists()
    assert (tmp_path / "model_repository" / "README.md").is_file()
