"""The renderings that are committed, so that a change of the renderer shows in a review, and whether they are fresh."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from slipstream.errors import StaleArtifactError
from slipstream.progress import silent
from slipstream.repository.render import Locations, render_repository
from slipstream.repository.verify import model_directories
from slipstream.repository.xgrammar_info import XGRAMMAR_INFO
from slipstream.spec import DeploymentSpec
from slipstream.spec_file import load_deployment

# Deployment → where its rendering is committed, from the root of the project.
REFERENCES: Mapping[str, Path] = {
    "smollm2-135m-cpu": Path("model_repository"),
    "smollm2-135m-cpu-draft": Path("tests/golden/repository/smollm2-135m-cpu-draft"),
    "llama-3.1-8b-fp8-h100": Path("tests/golden/repository/llama-3.1-8b-fp8-h100"),
    "llama-3.3-70b-fp8-tp4-draft": Path("tests/golden/repository/llama-3.3-70b-fp8-tp4-draft"),
    "llama-3.3-70b-int8-sq-tp8-a100": Path("tests/golden/repository/llama-3.3-70b-int8-sq-tp8-a100"),
    "mixtral-8x22b-fp16-tp8-a100": Path("tests/golden/repository/mixtral-8x22b-fp16-tp8-a100"),
    "llama-3.1-8b-nvfp4-llmapi-b200": Path("tests/golden/repository/llama-3.1-8b-nvfp4-llmapi-b200"),
    "llama-3.1-405b-fp8-tp8-pp2-h100": Path("tests/golden/repository/llama-3.1-405b-fp8-tp8-pp2-h100"),
}

_MEND = "run slipstream render --references"


def render_references(root: Path) -> None:
    """Write every committed rendering again; files beside the model directories stay."""
    for name, place in REFERENCES.items():
        committed = root / place
        committed.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            fresh = _render(name, root, Path(scratch))
            for old in model_directories(committed):
                shutil.rmtree(old)
            for model in model_directories(fresh):
                shutil.copytree(model, committed / model.name)


def check_references(root: Path) -> None:
    """Raise StaleArtifactError naming the first file and line in which a committed rendering is not fresh."""
    for name, place in REFERENCES.items():
        with tempfile.TemporaryDirectory() as scratch:
            check_rendering(root / place, _render(name, root, Path(scratch)))


def check_rendering(committed: Path, fresh: Path) -> None:
    """Raise StaleArtifactError at the first difference of two repositories; files beside their models do not count."""
    ours, theirs = _model_files(committed), _model_files(fresh)
    for name in sorted({*ours, *theirs}):
        if name not in ours:
            raise StaleArtifactError(f"{committed / name}: the committed rendering lacks this file", mend=_MEND)
        if name not in theirs:
            raise StaleArtifactError(f"{committed / name}: a fresh rendering does not have this file", mend=_MEND)
        _check_same(committed / name, fresh / name)


def neutral_locations(spec: DeploymentSpec) -> Locations:
    """Where a container would have the artifacts, so that a committed rendering names no machine's paths."""
    home = f"/models/{spec.name}"
    draft = f"{home}/draft" if spec.engine.draft else None
    # The LLM API loads a Hugging Face checkpoint; there is no engine.
    loaded = "checkpoint" if spec.engine.target == "llmapi" else "engine"
    guided = spec.runtime.tensorrt_llm.guided_decoding_backend is not None
    return Locations(
        engine_dir=f"{home}/{loaded}",
        tokenizer_dir=f"{home}/model",
        draft_engine_dir=f"{draft}/{loaded}" if draft else None,
        draft_tokenizer_dir=f"{draft}/model" if draft else None,
        xgrammar_info=f"{home}/model_repository/{XGRAMMAR_INFO}" if guided else None,
    )


def _render(name: str, root: Path, out: Path) -> Path:
    spec = load_deployment(name, root=root)
    render_repository(spec, neutral_locations(spec), out, silent)
    return out


# What running Python leaves behind in a repository that was served.
_IGNORED = {"__pycache__"}


def _model_files(repository: Path) -> set[Path]:
    if not repository.is_dir():
        return set()
    return {
        path.relative_to(repository)
        for model in model_directories(repository)
        for path in model.rglob("*")
        if path.is_file() and not _IGNORED.intersection(path.parts)
    }


def _check_same(committed: Path, fresh: Path) -> None:
    ours = committed.read_text(encoding="utf-8").splitlines()
    theirs = fresh.read_text(encoding="utf-8").splitlines()
    for number in range(max(len(ours), len(theirs))):
        was = ours[number] if number < len(ours) else "the end of the file"
        wanted = theirs[number] if number < len(theirs) else "the end of the file"
        if was != wanted:
            raise StaleArtifactError(
                f"{committed}:{number + 1}: not fresh: {was.strip()!r} is committed, {wanted.strip()!r} is rendered",
                mend=_MEND,
            )
