"""A verification that the machine cannot hold is refused with the memory it needs, before any tensor is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slipstream.errors import SlipstreamError
from slipstream.progress import silent
from slipstream.quantize.memory import GIB
from slipstream.quantize.safetensors_files import write_weights
from slipstream.quantize.verify import room
from slipstream.quantize.verify.check import verify_checkpoint
from slipstream.quantize.verify.logits import REFERENCE_NAME
from tests.unit.test_quantize_memory import LLAMA_70B

CONFIG = {
    "architecture": "LlamaForCausalLM",
    "dtype": "bfloat16",
    "vocab_size": 128256,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "norm_epsilon": 1e-5,
    "hidden_act": "silu",
    "position_embedding_type": "rope_gpt_neox",
    "rotary_base": 10000.0,
    "mapping": {"world_size": 4, "tp_size": 4, "pp_size": 1},
    "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]},
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(LLAMA_70B | {"rms_norm_eps": 1e-5, "rope_theta": 10000.0}))
    write_weights(directory / "model.safetensors", {"model.norm.weight": np.ones(2, np.float32)}, "float16")
    return directory


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return directory


def with_memory(monkeypatch: pytest.MonkeyPatch, size_gib: int) -> None:
    monkeypatch.setattr(room, "available_bytes", lambda: size_gib * GIB)


def test_an_unquantized_model_of_seventy_billion_parameters_is_not_loaded(
    checkpoint: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, 24)
    with pytest.raises(SlipstreamError, match=r"70\.55 billion .* needs about 395\.2 GiB of memory, 24\.0") as caught:
        verify_checkpoint(checkpoint, model_dir=model, report=silent)
    assert REFERENCE_NAME in caught.value.message
    assert "395.2 GiB of free memory" in caught.value.mend


def test_a_checkpoint_with_a_reference_needs_no_unquantized_model(
    checkpoint: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, 24)
    (checkpoint / REFERENCE_NAME).touch()
    for directory in (model, None):
        found = verify_checkpoint(checkpoint, model_dir=directory, report=silent)
        assert {finding.kind for finding in found.findings} == {"damaged-file"}


def test_ranks_that_do_not_fit_are_not_started(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, 8)
    with pytest.raises(SlipstreamError, match=r"running 4 ranks a layer at a time needs about 1[12]\.\d GiB"):
        verify_checkpoint(checkpoint, model_dir=None, report=silent)


def test_a_config_that_is_wrong_is_a_finding_before_it_is_a_size(
    checkpoint: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, 24)
    (checkpoint / "config.json").write_text(json.dumps(CONFIG | {"hidden_size": 1 << 20}))
    found = verify_checkpoint(checkpoint, model_dir=model, report=silent)
    assert "config.json hidden_size" in {finding.where for finding in found.findings}
