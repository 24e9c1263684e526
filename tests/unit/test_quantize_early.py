"""What cannot work is refused before a model is downloaded or dequantized, with the words of the checkpoint stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants

from slipstream.errors import SlipstreamError, SpecError
from slipstream.progress import silent
from slipstream.quantize import disk_space, memory
from slipstream.quantize.checkpoint import write_checkpoint
from slipstream.quantize.disk_space import DiskNeed, check_disk, checkpoint_bytes
from slipstream.quantize.early import refuse_early
from slipstream.quantize.memory import GIB
from slipstream.quantize.recipes import load_recipe
from slipstream.quantize.safetensors_files import write_weights
from tests.unit.small_tokenizers import byte_level
from tests.unit.test_quantize_gguf import a_gguf
from tests.unit.test_quantize_memory import LLAMA_70B, RECIPES, SMOLLM2

SMALL = LLAMA_70B | {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
Source = Callable[[dict[str, Any]], str]


@pytest.fixture
def of_directory(tmp_path: Path) -> Source:
    def source(config: dict[str, Any]) -> str:
        directory = tmp_path / "model"
        directory.mkdir(exist_ok=True)
        (directory / "config.json").write_text(json.dumps(config))
        byte_level().fast.save(str(directory / "tokenizer.json"))
        write_weights(directory / "model.safetensors", {"model.norm.weight": np.ones(2, np.float32)}, "float16")
        return str(directory)

    return source


@pytest.fixture
def of_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A hub that gives config.json, and nothing else."""

    def source(config: dict[str, Any]) -> str:
        path = tmp_path / "snapshot" / "config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(config))

        def give(hub_id: str, *, allow_patterns: list[str]) -> str:
            assert (hub_id, allow_patterns) == ("org/name", ["config.json"])
            return str(path.parent)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        return "org/name"

    return source


@pytest.fixture(params=["directory", "hub"])
def source(request: pytest.FixtureRequest) -> Source:
    found: Source = request.getfixturevalue(f"of_{request.param}")
    return found


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 24 * GIB)
    monkeypatch.setattr(disk_space, "free_bytes", lambda _directory: 100 * GIB)


def early(source: str, workspace: Path, **changes: Any) -> list[str]:
    """What is said while `source` is looked at."""
    said: list[str] = []
    settings = {"kv_cache": "auto", "dtype": "bfloat16", "tp_size": 1, "pp_size": 1, "moe_ep_size": 1} | changes
    recipe = load_recipe(settings.pop("recipe", "fp8"), RECIPES)
    refuse_early(
        source,
        recipe=recipe,
        workspace=workspace / "not" / "there",
        report=lambda message, fraction=None: said.append(message),
        **settings,
    )
    return said


def refusal(source: str, workspace: Path, **changes: Any) -> SlipstreamError:
    with pytest.raises(SlipstreamError) as caught:
        early(source, workspace, **changes)
    assert caught.value.mend
    return caught.value


def test_a_model_that_fits_passes_and_the_estimate_is_said(source: Source, tmp_path: Path) -> None:
    assert "about" in early(source(SMALL), tmp_path, tp_size=2)[-1]


def test_seventy_billion_parameters_are_refused_unseen(source: Source, tmp_path: Path) -> None:
    assert "GiB of memory of 24.0 GiB available (70.55 billion" in refusal(source(LLAMA_70B), tmp_path).message


def test_a_large_gguf_is_refused_by_its_metadata_alone(tmp_path: Path) -> None:
    path = a_gguf(tmp_path / "m.gguf", hidden=16384, layers=80)
    assert "GiB of memory of 24.0 GiB available (" in refusal(str(path), tmp_path).message
    assert "about" in early(str(a_gguf(tmp_path / "small.gguf", hidden=512)), tmp_path)[-1]


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        ({"architectures": ["Phi3ForCausalLM"]}, {}, "Phi3ForCausalLM is not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, {}, "quantized already"),
        ({}, {"tp_size": 3}, "8 attention heads are not divisible"),
        ({}, {"pp_size": 3}, "4 layers are not divisible"),
        ({}, {"recipe": "int8_sq", "tp_size": 4}, "2 KV heads"),
        ({}, {"recipe": "w4a8_awq", "tp_size": 8}, "group size 128"),
        ({}, {"moe_ep_size": 2, "tp_size": 2}, "the model has no experts"),
        ({}, {"dtype": "float32"}, "float32 would become float16"),
        ({}, {"recipe": "nvfp4", "kv_cache": "int8"}, "rejects an INT8 KV cache"),
        ({"num_hidden_layers": 100_000}, {}, "GiB of memory of 24.0 GiB"),
    ],
)
def test_it_says_what_the_checkpoint_stage_would_say(
    of_directory: Source, of_hub: Source, tmp_path: Path, config: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    directory = of_directory(SMALL | config)
    found = refusal(directory, tmp_path, **settings)
    assert message in found.message
    late = {"kv_cache": "auto", "dtype": "bfloat16", "tp_size": 1, "pp_size": 1} | settings
    recipe = load_recipe(late.pop("recipe", "fp8"), RECIPES)
    with pytest.raises(SlipstreamError) as caught:
        write_checkpoint(Path(directory), tmp_path, recipe=recipe, report=silent, **late)
    assert (found.message, found.mend) == (caught.value.message, caught.value.mend)
    assert message in refusal(of_hub(SMALL | config), tmp_path, **settings).message


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"tp_size": 3}, "4 attention heads"), ({"recipe": "w4a8_awq"}, "group size 128"), ({"pp_size": 3}, "2 layers")],
)
def test_a_gguf_that_cannot_be_shared_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    assert message in refusal(str(a_gguf(tmp_path / "m.gguf")), tmp_path, **settings).message


def test_what_a_gguf_cannot_be_rebuilt_from_is_refused_early(tmp_path: Path) -> None:
    path = a_gguf(tmp_path / "m.gguf", llama__expert_count=8)
    assert "the model has experts" in refusal(str(path), tmp_path).message


def test_a_bundled_model_that_there_is_not_is_refused(tmp_path: Path) -> None:
    assert isinstance(refusal("bundled:other", tmp_path), SpecError)


def test_a_hub_model_without_a_config_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert "org/name has no config.json" in refusal("org/name", tmp_path).message


def test_a_download_that_does_not_fit_the_disk_is_refused(
    of_hub: Source, of_directory: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 64 * GIB)
    wide = SMALL | {"vocab_size": 1 << 20, "hidden_size": 1024}  # 2 GiB of embeddings and lm_head, each stored once
    monkeypatch.setattr(disk_space, "free_bytes", lambda _directory: 6 * GIB)
    error = refusal(of_hub(wide), tmp_path)
    assert "6.0 GiB of disk are free, this run needs about 8.1 GiB" in error.message
    assert "4.0 GiB for the download, 4.0 GiB for the checkpoint" in error.message
    assert "HF_HOME" in error.mend
    early(of_directory(wide), tmp_path)  # its weights are linked
    blob = tmp_path / "cache" / "models--org--name" / "blobs" / "a"
    blob.parent.mkdir(parents=True)
    with blob.open("wb") as file:
        file.truncate(3 * GIB)  # has been fetched already
    early(of_hub(wide), tmp_path)


def test_a_gguf_needs_room_for_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(a_gguf(tmp_path / "m.gguf", hidden=4096, layers=8))
    monkeypatch.setattr(disk_space, "free_bytes", lambda _directory: GIB)
    assert "2.3 GiB for the model, 1.1 GiB for the checkpoint" in refusal(path, tmp_path).message


def test_a_checkpoint_that_does_not_fit_the_disk_is_refused_before_its_weights_are_read(
    of_directory: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Path(of_directory(SMALL))
    (directory / "model.safetensors").unlink()
    monkeypatch.setattr(disk_space, "free_bytes", lambda _directory: 1 << 20)
    recipe = load_recipe("fp8", RECIPES)
    settings = {"kv_cache": "auto", "tp_size": 1, "pp_size": 1, "dtype": "float16"}
    with pytest.raises(SlipstreamError, match="of disk are free"):
        write_checkpoint(directory, tmp_path, recipe=recipe, report=silent, **settings)


def test_needs_on_one_file_system_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space, "free_bytes", lambda _directory: 5 * GIB)
    needs = [DiskNeed(what=what, directory=tmp_path / what, size_bytes=3 * GIB, mend="free some") for what in "ab"]
    check_disk(needs[:1])
    with pytest.raises(SlipstreamError, match=r"6\.0 GiB there \(3\.0 GiB for a, 3\.0 GiB for b\)") as caught:
        check_disk(needs)
    assert caught.value.mend == "free some"


@pytest.mark.parametrize(
    ("method", "bits"),
    [("none", 16), ("int8_wo", 16), ("fp8", 8), ("int4_awq", 4.5), ("w4a8_awq", 4.25), ("nvfp4", 4.5)],
)
def test_a_checkpoint_is_as_large_as_its_format_makes_it(method: str, bits: float) -> None:
    settings = load_recipe(method, RECIPES).settings
    linears, ends = 106_168_320, 2 * 49152 * 576
    assert checkpoint_bytes(SMOLLM2, settings.format, settings.group_size) == linears * bits / 8 + 2 * ends
