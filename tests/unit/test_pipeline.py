"""A change makes again exactly what depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipstream import artifacts
from slipstream.errors import SpecError, StaleArtifactError
from slipstream.pipeline import (
    CHECKPOINT,
    ENGINE,
    MODEL,
    REPOSITORY,
    TRTLLM_ENGINE,
    UNIFIED,
    Context,
    Stage,
    require,
    stages_for,
)
from slipstream.pipeline import stage as stages
from slipstream.progress import silent
from slipstream.project import Workspace
from slipstream.quantize import identity
from slipstream.spec_file import load_deployment
from tests.unit.trtllm_fixtures import write_checkpoint

ALL = (MODEL, CHECKPOINT, ENGINE, REPOSITORY)


def digests(root: Path, tmp_path: Path, *overrides: str) -> dict[str, str]:
    spec = load_deployment("smollm2-135m-cpu", overrides, root=root)
    context = Context(spec=spec, root=root, workspace=Workspace(directory=tmp_path))
    return {stage.name: stage.dependencies(context).digest for stage in ALL}


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("model.dtype=bfloat16", MODEL),
        ("quantization.recipe=none", CHECKPOINT),
        ("engine.tp_size=3", CHECKPOINT),
        ("engine.max_seq_len=4096", ENGINE),
        ("engine.max_batch_size=8", REPOSITORY),
        ("runtime.execution=accuracy", REPOSITORY),
        ("runtime.enable_kv_cache_reuse=false", REPOSITORY),
        ("runtime.ports=auto", None),
        ("runtime.startup_timeout_s=5", None),
        ("runtime.probe_period_s=5", None),
        ("description=other", None),
    ],
)
def test_a_change_makes_again_what_depends_on_it(
    root: Path, tmp_path: Path, override: str, first: Stage | None
) -> None:
    before, after = digests(root, tmp_path), digests(root, tmp_path, override)
    changed = [stage for stage in ALL if before[stage.name] != after[stage.name]]
    assert changed == (list(ALL[ALL.index(first) :]) if first else [])


def test_a_changed_file_of_a_local_model_makes_everything_again(root: Path, tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    config = tmp_path / "local" / "config.json"
    config.write_text("{}")
    source = f"model.source={tmp_path / 'local'}"
    before = digests(root, tmp_path, source)
    config.write_text("{ }")
    after = digests(root, tmp_path, source)
    assert [name for name in before if before[name] != after[name]] == [stage.name for stage in ALL]


def test_a_moved_workspace_renders_again_and_builds_nothing(root: Path, tmp_path: Path) -> None:
    before, after = digests(root, tmp_path / "a"), digests(root, tmp_path / "b")
    assert [name for name in before if before[name] != after[name]] == ["model_repository"]


def test_a_changed_calibration_text_makes_the_checkpoint_again(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "project"
    for folder in ("deployments", "quantize"):
        for file in (root / folder).rglob("*"):
            if file.is_file():
                target = copy / file.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
    before = digests(copy, tmp_path)
    text = copy / "quantize" / "calibration" / "calibration.txt"
    text.write_text(text.read_text() + "One more sentence.\n")
    after = digests(copy, tmp_path)
    assert [name for name in before if before[name] != after[name]] == ["checkpoint", "engine", "model_repository"]


def test_a_machine_without_the_makers_tools_finds_everything_up_to_date(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_deployment("smollm2-135m-cpu", root=root)
    context = Context(spec=spec, root=root, workspace=Workspace(directory=tmp_path))
    for stage in ALL:
        artifacts.write(stage.path(context), stage.dependencies(context), lambda out: {})
    require(REPOSITORY, context)
    monkeypatch.setattr(stages, "_version", lambda package: artifacts.NOT_INSTALLED)
    monkeypatch.setattr(identity, "_package_version", lambda: None)
    require(REPOSITORY, context)
    monkeypatch.setattr(stages, "_version", lambda package: "99")
    with pytest.raises(StaleArtifactError, match="tool nvidia-modelopt was"):
        require(REPOSITORY, context)


def test_a_draft_is_a_pair_with_its_target(root: Path, tmp_path: Path) -> None:
    def digests_of(*overrides: str) -> dict[str, str]:
        spec = load_deployment("llama-3.3-70b-fp8-tp4-draft", overrides, root=root)
        context = Context(spec=spec, root=root, workspace=Workspace(directory=tmp_path))
        return {stage.name: stage.dependencies(context).digest for stage in stages_for(spec)}

    before = digests_of()
    quantized = ["model", "draft/model", "checkpoint", "draft/checkpoint"]
    assert list(before) == [*quantized, "engine", "draft/engine", "model_repository"]
    changed = {
        override: [name for name, digest in digests_of(override).items() if digest != before[name]][:2]
        for override in ("engine.draft.quantization.kv_cache=auto", "quantization.kv_cache=auto", "model.dtype=float16")
    }
    assert changed["engine.draft.quantization.kv_cache=auto"] == ["draft/checkpoint", "draft/engine"]
    assert changed["quantization.kv_cache=auto"] == ["checkpoint", "engine"]
    assert changed["model.dtype=float16"] == ["model", "draft/model"]  # the tokenizers are compared again


def test_a_draft_on_the_cpu_has_stages_of_its_own(root: Path, tmp_path: Path) -> None:
    spec = load_deployment("smollm2-135m-cpu-draft", root=root)
    names = [stage.name for stage in stages_for(spec)]
    quantized = ["model", "draft/model", "checkpoint", "draft/checkpoint"]
    assert names == [*quantized, "engine", "draft/engine", "model_repository"]
    context = Context(spec=spec, root=root, workspace=Workspace(directory=tmp_path))
    engines = [stage.dependencies(context) for stage in stages_for(spec) if stage.verb == "build"]
    assert [list(engine.parents) for engine in engines] == [["checkpoint"], ["draft/checkpoint"]]


@pytest.mark.parametrize(
    ("overrides", "is_refused"),
    [
        (["quantization.kv_cache=fp8"], False),
        (["quantization.recipe=int4_awq", "quantization.kv_cache=fp8"], True),
        (["quantization.kv_cache=int8"], True),
        (["quantization.recipe=int4_awq", "quantization.kv_cache=auto"], False),
        (["quantization.kv_cache=int8", "runtime.enable_kv_cache_reuse=false"], True),
        (
            [
                "quantization.kv_cache=int8",
                "runtime.enable_kv_cache_reuse=false",
                "runtime.enable_chunked_context=false",
            ],
            False,
        ),
        (["engine.target=openvino", "quantization.kv_cache=int8"], False),  # its engine has a KV cache of its own
    ],
)
def test_a_kv_cache_that_silently_costs_reuse_is_refused(
    root: Path, tmp_path: Path, overrides: list[str], *, is_refused: bool
) -> None:
    spec = load_deployment("llama-3.1-8b-fp8-h100", overrides, root=root)
    context = Context(spec=spec, root=root, workspace=Workspace(directory=tmp_path))
    if not is_refused:
        CHECKPOINT.dependencies(context)
        return
    with pytest.raises(SpecError, match="paged context FMHA") as caught:
        CHECKPOINT.dependencies(context)
    assert "set quantization.kv_cache to auto" in caught.value.mend


@pytest.mark.parametrize(
    ("override", "made_again"),
    [
        ("runtime.kv_cache_free_gpu_mem_fraction=0.7", {"model_repository"}),
        ("runtime.launch_mode=orchestrator", {"model_repository"}),
        ("engine.max_batch_size=32", {"engine", "draft/engine", "model_repository"}),
        ("engine.trtllm_build.multiple_profiles=true", {"engine", "draft/engine", "model_repository"}),
        ("engine.draft.max_draft_len=4", {"engine", "model_repository"}),  # the draft's own engine does not know it
        ("engine.draft.kv_cache_free_gpu_mem_fraction=0.15", {"model_repository"}),
        ("hardware.gpu=H200", {"engine", "draft/engine", "model_repository"}),  # an engine is tuned for one kind of GPU
        ("hardware.gpu=NVIDIA H100 SXM5 80GB", {"model_repository"}),  # another name of the same
        ("hardware.gpus_per_node=8", {"model_repository"}),
        ("gateway={}", set()),
    ],
)
def test_a_change_of_a_gpu_deployment_makes_again_what_depends_on_it(
    root: Path, tmp_path: Path, override: str, made_again: set[str]
) -> None:
    def dependencies(*overrides: str) -> dict[str, object]:
        spec = load_deployment("llama-3.3-70b-fp8-tp4-draft", overrides, root=root)
        context = Context(spec=spec, root=root, workspace=Workspace(directory=tmp_path))
        return {stage.name: stage.dependencies(context) for stage in stages_for(spec)}

    before, after = dependencies(), dependencies(override)
    assert {name for name in before if before[name] != after[name]} == made_again


def test_the_targets_have_the_stages_that_they_need(root: Path) -> None:
    def names(*overrides: str) -> list[str]:
        return [stage.name for stage in stages_for(load_deployment("llama-3.1-8b-fp8-h100", overrides, root=root))]

    assert names() == ["model", "checkpoint", "engine", "model_repository"]
    assert names("engine.target=llmapi") == ["model", "checkpoint", "model_repository"]
    assert names("engine.checkpoint_dir=/models/medusa") == ["model", "engine", "model_repository"]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["hardware.gpu=A100"], "fp8 needs sm_89 or newer, the GPU is sm_80"),
        (["hardware.gpu=B200", "quantization.recipe=int8_sq", "quantization.kv_cache=auto"], "int8_sq is rejected"),
        (["quantization.recipe=nvfp4"], "nvfp4 needs sm_100"),
        (["hardware.gpu=A100", "quantization.recipe=none"], "an FP8 KV cache needs sm_89"),
    ],
)
def test_a_format_that_the_gpu_cannot_run_is_refused_before_it_is_made(
    root: Path, tmp_path: Path, overrides: list[str], problem: str
) -> None:
    for target, stage in (("tensorrt_llm", CHECKPOINT), ("llmapi", UNIFIED)):
        off = ["runtime.enable_kv_cache_reuse=false", "runtime.enable_chunked_context=false", f"engine.target={target}"]
        spec = load_deployment("llama-3.1-8b-fp8-h100", [*overrides, *off], root=root)
        context = Context(spec=spec, root=root, workspace=Workspace(directory=tmp_path))
        with pytest.raises(SpecError, match=problem):
            stage.dependencies(context)


def test_the_llm_api_is_told_the_kv_cache_format_when_it_is_rendered(root: Path, tmp_path: Path) -> None:
    def digest(kv_cache: str) -> str:
        sets = ["engine.target=llmapi", f"quantization.kv_cache={kv_cache}"]
        spec = load_deployment("llama-3.1-8b-fp8-h100", sets, root=root)
        context = Context(spec=spec, root=root, workspace=Workspace(directory=tmp_path))
        return stages_for(spec)[-1].dependencies(context).digest

    assert digest("fp8") != digest("auto")


def test_engines_are_built_again_for_another_tensorrt_llm(root: Path, tmp_path: Path) -> None:
    def engine(project: Path) -> str:
        context = Context(
            spec=load_deployment("llama-3.1-8b-fp8-h100", root=root),
            root=project,
            workspace=Workspace(directory=tmp_path),
        )
        return TRTLLM_ENGINE.dependencies(context).digest

    other = tmp_path / "project"
    (other / "docker").mkdir(parents=True)
    (other / "quantize").symlink_to(root / "quantize")
    pins = (root / "docker" / "versions.env").read_text()
    for was, now in (("", ""), ("TENSORRT_LLM_VERSION=1.2.1", "TENSORRT_LLM_VERSION=1.2.0")):
        (other / "docker" / "versions.env").write_text(pins.replace(was, now) if was else pins)
        assert (engine(other) == engine(root)) == (not was)


def test_two_checkpoints_that_do_not_fit_are_refused_before_the_first_is_compiled(root: Path, tmp_path: Path) -> None:
    spec = load_deployment("llama-3.3-70b-fp8-tp4-draft", root=root)
    workspace = Workspace(directory=tmp_path)
    write_checkpoint(workspace.checkpoint, ranks=4)
    write_checkpoint(workspace.draft.checkpoint, {"vocab_size": 32000}, ranks=4)
    (tmp_path / "out").mkdir()
    with pytest.raises(SpecError, match="a vocabulary of 32000"):
        TRTLLM_ENGINE.make(Context(spec=spec, root=root, workspace=workspace), tmp_path / "out", silent)


def test_the_draft_inside_the_cpu_engine_is_built_before_the_repository(root: Path) -> None:
    draft = "engine.speculation={mode: draft_target, max_draft_len: 3, speculative_model: ./draft}"
    names = [stage.name for stage in stages_for(load_deployment("smollm2-135m-cpu", [draft], root=root))]
    assert {"draft/model", "draft/checkpoint", "draft/engine"} < set(names)
    assert names[-1] == "model_repository"
