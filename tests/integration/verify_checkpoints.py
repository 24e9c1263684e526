"""Checkpoints of small models in every format, and copies of them that faults are planted into."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from slipstream.formats import KvCache, Method
from slipstream.progress import silent
from slipstream.quantize.checkpoint import write_checkpoint
from slipstream.quantize.verify.check import verify_checkpoint
from slipstream.quantize.verify.findings import Finding, Verification
from slipstream.quantize.verify.synthetic import LLAMA, MIXTRAL, save_synthetic
from tests.integration.tiny_models import a_recipe
from tests.unit.small_tokenizers import byte_level

Tensors = dict[str, torch.Tensor]
Make = Callable[..., Path]
LAYERS = {"num_hidden_layers": 2}
MODELS = {
    "llama": ("llama", LLAMA | LAYERS),
    "rope": (
        "llama",
        LLAMA
        | LAYERS
        | {
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "mistral": ("mistral", LLAMA | LAYERS | {"sliding_window": None}),
    "qwen2": ("qwen2", LLAMA | LAYERS | {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", LLAMA | LAYERS | {"head_dim": 64}),
    "mixtral": ("mixtral", MIXTRAL),
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of one of MODELS, made once."""
    made: dict[str, Path] = {}

    def model(name: str) -> Path:
        if name not in made:
            model_type, settings = MODELS[name]
            made[name] = save_synthetic(model_type, tmp_path_factory.mktemp("models") / name, settings)
            byte_level().fast.save(str(made[name] / "tokenizer.json"))
        return made[name]

    return model


@pytest.fixture(scope="session")
def checkpoints(models: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A checkpoint of one of MODELS, made once."""
    made: dict[tuple[Any, ...], Path] = {}

    def checkpoint(
        method: Method, *, model: str = "llama", kv: KvCache = "auto", tp: int = 1, pp: int = 1, ep: int = 1
    ) -> Path:
        key = (method, model, kv, tp, pp, ep)
        if key not in made:
            out = tmp_path_factory.mktemp(f"{model}-{method}-{tp}-{pp}")
            write_checkpoint(
                models(model),
                out,
                recipe=a_recipe(method, evaluation=None),
                kv_cache=kv,
                tp_size=tp,
                pp_size=pp,
                dtype="float16",
                report=silent,
                moe_ep_size=ep,
            )
            made[key] = out
        return made[key]

    return checkpoint


def errors(verification: Verification) -> list[Finding]:
    return [finding for finding in verification.findings if finding.severity == "error"]


def found(verification: Verification, kind: str) -> Finding:
    """The first error of `kind`; the verification must have failed."""
    assert not verification.ok
    same = [finding for finding in errors(verification) if finding.kind == kind]
    assert same, f"no {kind} among {[(finding.kind, finding.where, finding.what) for finding in verification.findings]}"
    return same[0]


class Planted:
    """A copy of a checkpoint that faults are planted into."""

    def __init__(self, checkpoint: Path, directory: Path) -> None:
        self.directory = directory / "planted"
        shutil.copytree(checkpoint, self.directory)

    def change(self, rank: int, fault: Callable[[Tensors], None], file: str | None = None) -> None:
        path = self.directory / (file or f"rank{rank}.safetensors")
        tensors = load_file(path)
        fault(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)

    def configure(self, fault: Callable[[dict[str, Any]], object]) -> None:
        path = self.directory / "config.json"
        config = json.loads(path.read_text())
        fault(config)
        path.write_text(json.dumps(config))

    def verified(self, model: Path | None) -> Verification:
        return verify_checkpoint(self.directory, model_dir=model, report=silent)


@pytest.fixture
def plant(checkpoints: Make, tmp_path: Path) -> Callable[..., Planted]:
    def planted(method: Method, **cut: Any) -> Planted:
        return Planted(checkpoints(method, **cut), tmp_path)

    return planted
