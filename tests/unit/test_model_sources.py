"""A model source is understood, checked, and refused with one clear message."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from requests import Response

from slipstream.errors import SlipstreamError, SpecError
from slipstream.progress import silent
from slipstream.quantize.model import ModelReport, is_path, prepare_model
from slipstream.quantize.safetensors_files import tensor_shapes, write_weights
from tests.unit.small_tokenizers import byte_level

WEIGHTS = {"model.embed_tokens.weight": np.ones((4, 2), np.float32), "model.norm.weight": np.ones(2, np.float32)}
CONFIG = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "tiny-llama"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    byte_level().fast.save(str(directory / "tokenizer.json"))
    write_weights(directory / "model.safetensors", WEIGHTS, "float16")
    return directory


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def shard(checkpoint: Path) -> None:
    """Turn the checkpoint's one weight file into two with an index."""
    (checkpoint / "model.safetensors").unlink()
    names = {}
    for number, (name, tensor) in enumerate(WEIGHTS.items(), start=1):
        names[name] = f"model-{number:05}-of-00002.safetensors"
        write_weights(checkpoint / names[name], {name: tensor}, "float16")
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def refusal(source: str | Path, out: Path) -> SlipstreamError:
    with pytest.raises(SlipstreamError) as caught:
        prepare_model(str(source), "float16", out, silent)
    assert caught.value.mend
    return caught.value


def test_a_directory_is_taken_with_its_weights_linked(checkpoint: Path, out: Path) -> None:
    report = prepare_model(str(checkpoint), "float16", out, silent)
    assert report == ModelReport(
        name="tiny-llama",
        architecture="LlamaForCausalLM",
        parameters=10,
        layers=2,
        weight_bytes=(checkpoint / "model.safetensors").stat().st_size,
    )
    assert (out / "model.safetensors").samefile(checkpoint / "model.safetensors")
    assert not (out / "config.json").samefile(checkpoint / "config.json")


def test_every_shard_of_an_index_is_linked_and_nothing_else(checkpoint: Path, out: Path) -> None:
    shard(checkpoint)
    (checkpoint / "consolidated.safetensors").write_bytes(b"the same weights in another layout")
    (checkpoint / "modeling_custom.py").write_text("raise SystemExit")
    assert prepare_model(str(checkpoint), "float16", out, silent).parameters == 10
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }


@pytest.mark.parametrize("source", ["/a", "./a", "../a", "~/a", ".", ".."])
def test_what_looks_like_a_path_is_one(source: str) -> None:
    assert is_path(source)


def test_a_missing_directory_is_named(tmp_path: Path, out: Path) -> None:
    assert "there is no directory" in refusal(tmp_path / "nowhere", out).message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named(checkpoint: Path, out: Path, name: str) -> None:
    (checkpoint / name).unlink()
    assert f"has no {name}" in refusal(checkpoint, out).message


@pytest.mark.parametrize(
    ("other", "mend"),
    [("pytorch_model.bin", "save_pretrained"), ("model.gguf", "GGUF"), ("readme.md", "safetensors files")],
)
def test_a_directory_without_safetensors_says_what_to_do(checkpoint: Path, out: Path, other: str, mend: str) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / other)
    assert mend in refusal(checkpoint, out).mend


@pytest.mark.parametrize("keep", [0, 4, 60, -1], ids=["empty", "inside the length", "inside the header", "cut short"])
def test_a_damaged_weight_file_is_named(checkpoint: Path, out: Path, keep: int) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert refusal(checkpoint, out).message.startswith(f"{weights}: is not a whole safetensors file")


def test_a_missing_shard_is_named(checkpoint: Path, out: Path) -> None:
    shard(checkpoint)
    (checkpoint / "model-00002-of-00002.safetensors").unlink()
    assert "missing: model-00002-of-00002.safetensors" in refusal(checkpoint, out).message


def test_an_index_that_does_not_fit_its_files_is_refused(checkpoint: Path, out: Path) -> None:
    shard(checkpoint)
    write_weights(checkpoint / "model-00002-of-00002.safetensors", {"other": np.ones(2, np.float32)}, "float16")
    assert "first model.norm.weight" in refusal(checkpoint, out).message


def test_an_index_cannot_point_outside_its_directory(checkpoint: Path, out: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    assert "outside its directory" in refusal(checkpoint, out).message


def test_a_full_disk_is_one_clear_error(checkpoint: Path, out: Path) -> None:
    (out / "config.json").symlink_to("/dev/full")
    assert "the disk is full" in refusal(checkpoint, out).message


def test_an_unknown_bundled_model_names_the_known_one(out: Path) -> None:
    error = refusal("bundled:llama", out)
    assert isinstance(error, SpecError)
    assert "bundled:smollm2-135m-instruct" in error.mend


@pytest.mark.parametrize("source", ["org/", "a/b/c", "org/na me", "org//name", "gpt2", "org/a--b", "-a/b"])
def test_what_is_neither_path_nor_hub_id_is_a_spec_error(source: str, out: Path) -> None:
    assert isinstance(refusal(source, out), SpecError)


def test_without_a_network_the_hub_model_is_refused_with_the_way_around(
    out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    error = refusal("org/name", out)
    assert "org/name cannot be fetched" in error.message
    assert "hf download org/name" in error.mend


@pytest.mark.parametrize(
    ("failure", "message", "mend"),
    [(GatedRepoError, "is gated", "HF_TOKEN"), (RepositoryNotFoundError, "has no model", "HF_TOKEN")],
)
def test_a_model_that_the_hub_withholds_says_why(
    out: Path, monkeypatch: pytest.MonkeyPatch, failure: type[Exception], message: str, mend: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise failure("401", response=Response())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    error = refusal("org/name", out)
    assert message in error.message
    assert mend in error.mend


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_weights_are_rounded_as_torch_rounds_them(tmp_path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import load_file

    values = np.random.default_rng(0).standard_normal((64, 33), dtype=np.float32)
    values[0, :4] = [1.00390625, 1.01171875, -1.00390625, 0]  # halfway between two bfloat16 numbers: to the even one
    write_weights(tmp_path / "w.safetensors", {"w": values}, dtype)
    assert torch.equal(load_file(tmp_path / "w.safetensors")["w"], torch.from_numpy(values).to(getattr(torch, dtype)))
    assert tensor_shapes(tmp_path / "w.safetensors") == {"w": (64, 33)}
