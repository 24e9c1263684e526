"""A dry run shows what would be run, for every deployment that the repository carries."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from slipstream.command_line import Command
from slipstream.dry_run import DryRun, dry_run
from slipstream.errors import SlipstreamError, SpecError
from slipstream.pipeline import Context
from slipstream.project import Workspace, pinned
from slipstream.spec_file import deployment_names, load_deployment
from slipstream.walkthrough import CHAPTERS, PAGE, compose_commands, walkthrough

ROOT = Path(__file__).resolve().parents[2]


def run(name: str, tmp_path: Path, *sets: str) -> DryRun:
    spec = load_deployment(name, sets, root=ROOT)
    return dry_run(Context(spec=spec, root=ROOT, workspace=Workspace(directory=tmp_path)), name, sets)


@pytest.mark.parametrize("name", deployment_names(ROOT))
def test_every_deployment_has_its_commands_and_files(tmp_path: Path, name: str) -> None:
    made = run(name, tmp_path)
    document = json.loads(json.dumps(made.as_json()))
    assert {"commands", "files", "memory"} <= set(document)
    assert all({"argv", "env", "container"} <= set(command) for command in document["commands"])
    assert all(path.startswith(f"/models/{name}/model_repository/") for path in document["files"])
    assert not any("${" in text for path, text in document["files"].items() if path.endswith(".pbtxt"))
    assert not list(tmp_path.iterdir())  # nothing is written


@pytest.mark.parametrize(
    ("name", "programs"),
    [
        ("llama-3.1-8b-fp8-h100", ["slipstream", "trtllm-build", "tritonserver"]),
        ("llama-3.3-70b-fp8-tp4-draft", ["slipstream", "trtllm-build", "trtllm-build", "mpirun"]),
        ("llama-3.3-70b-int8-sq-tp8-a100", ["slipstream", "trtllm-build", "mpirun"]),
        ("mixtral-8x22b-fp16-tp8-a100", ["slipstream", "trtllm-build", "mpirun"]),
        ("llama-3.1-8b-nvfp4-llmapi-b200", ["slipstream", "tritonserver"]),
        ("llama-3.1-405b-fp8-tp8-pp2-h100", ["slipstream", "trtllm-build", "srun", "bash"]),
    ],
)
def test_the_reference_deployments_run_these_programs(tmp_path: Path, name: str, programs: list[str]) -> None:
    made = run(name, tmp_path)
    assert [command.argv[0] for command in made.commands] == programs
    assert made.memory is not None
    assert {"weights", "KV cache", "free", "card"} <= {row.name for row in made.memory.rows}


def test_the_image_that_serves_can_be_ones_own(tmp_path: Path) -> None:
    made = run("llama-3.1-405b-fp8-tp8-pp2-h100", tmp_path, "runtime.container_image=registry.example/triton:1")
    _, build, slurm, lws = made.commands
    assert "--container-image=registry.example#triton:1" in slurm.argv
    assert lws.container == "registry.example/triton:1"
    assert build.container is not None
    assert build.container.startswith("nvcr.io/nvidia/tritonserver:")  # an engine is compiled in the pinned one


def test_overrides_are_part_of_the_command(tmp_path: Path) -> None:
    quantize = run("llama-3.1-8b-fp8-h100", tmp_path, "engine.max_batch_size=8").commands[0]
    assert quantize.argv[-2:] == ("--set", "engine.max_batch_size=8")


def test_a_family_that_is_not_made_here_is_refused_with_the_way_round(tmp_path: Path) -> None:
    with pytest.raises(SlipstreamError, match="no TensorRT-LLM checkpoint of gemma2 models") as refused:
        run("llama-3.1-8b-fp8-h100", tmp_path, "model.source=google/gemma-2-9b-it")
    assert "engine.checkpoint_dir" in refused.value.mend


def test_the_walkthrough_is_fresh(root: Path) -> None:
    assert (root / PAGE).read_text(encoding="utf-8") == walkthrough(root)


def test_what_the_walkthrough_shows_is_what_would_be_run(tmp_path: Path) -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8").replace(" \\\n  ", " ")
    for chapter in CHAPTERS:
        for command in run(chapter.deployment, tmp_path).commands:
            assert command.shell_text in page


def test_compose_runs_the_services_that_the_file_has(root: Path) -> None:
    import yaml

    services = yaml.safe_load((root / "docker" / "compose.yaml").read_text())["services"]
    for command in compose_commands(load_deployment("llama-3.1-8b-nvfp4-llmapi-b200", root=root)):
        profiles = [*command.argv[command.argv.index("docker/compose.yaml") + 1 :]]
        assert (set(profiles) & set(services)) or "serve" in profiles
        assert command.env == {"DEPLOYMENT": "llama-3.1-8b-nvfp4-llmapi-b200", "STAGE": "llmapi"}


def test_a_command_is_one_line_of_shell() -> None:
    command = Command(purpose="", argv=("echo", "a b", "$HOME"), env={"X": "1 2"})
    assert shlex.split(command.shell_text) == ["X=1 2", "echo", "a b", "$HOME"]


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        (
            "mixtral-8x22b-fp16-tp8-a100",
            "quantization.recipe=int8_sq",
            "no TensorRT-LLM checkpoint of Mixtral is made in",
        ),
        ("llama-3.1-8b-nvfp4-llmapi-b200", "quantization.recipe=int8_sq", "its PyTorch backend does not read one"),
        (
            "llama-3.1-8b-nvfp4-llmapi-b200",
            "model.source=microsoft/phi-2",
            "no checkpoint for the LLM API of phi models",
        ),
        ("mixtral-8x22b-fp16-tp8-a100", "engine.moe_ep_size=3", "it must divide engine.tp_size"),
        ("llama-3.3-70b-int8-sq-tp8-a100", "engine.tp_size=3", "64 attention heads are not divisible by it"),
        ("llama-3.1-8b-fp8-h100", "model.source=nobody/nothing", "model.source: model 'nobody/nothing' is not in"),
        (
            "llama-3.3-70b-fp8-tp4-draft",
            "engine.draft.model.source=a/b",
            "engine.draft.model.source: model 'a/b' is not",
        ),
    ],
)
def test_what_quantizing_would_refuse_is_not_shown_as_commands(
    tmp_path: Path, name: str, override: str, said: str
) -> None:
    with pytest.raises(SlipstreamError, match=said):
        run(name, tmp_path, override)


def test_a_gpu_that_is_not_known_is_a_mistake_in_the_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"hardware.gpu is 'H1000', .* did you mean H200"):
        run("llama-3.1-8b-fp8-h100", tmp_path, "hardware.gpu=H1000")


@pytest.mark.parametrize("damage", ["missing", "a line", "bytes"])
def test_damaged_pins_are_one_message(tmp_path: Path, damage: str) -> None:
    pins = (ROOT / "docker" / "versions.env").read_bytes()
    (tmp_path / "docker").mkdir()
    if damage != "missing":
        text = pins.replace(b"TRITON_TRTLLM_IMAGE", b"IMAGE") if damage == "a line" else b"\xff\xfe"
        (tmp_path / "docker" / "versions.env").write_bytes(text)
    with pytest.raises(SlipstreamError, match=r"versions\.env: ") as refused:
        pinned(tmp_path, "TRITON_TRTLLM_IMAGE")
    assert refused.value.mend == "take docker/versions.env from the repository"
