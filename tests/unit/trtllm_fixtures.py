"""Engines and checkpoints that `trtllm-build` takes, to change one thing of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipstream.engine.trtllm import BuildPlan, CheckpointFacts, plan_build
from slipstream.spec import EngineSpec
from slipstream.spec.runtime import RuntimeSpec

CONTRACT = Path(__file__).resolve().parents[1] / "contract" / "trtllm-1.2.1"
IMAGE = "registry.example/triton:1"
DRAFT = {"model": {"source": "org/small"}, "max_draft_len": 5}


def contract(name: str) -> Any:
    return json.loads((CONTRACT / f"{name}.json").read_text())


def an_engine(**changes: Any) -> EngineSpec:
    sizes = {"max_batch_size": 64, "max_num_tokens": 8192, "max_seq_len": 8192, "max_input_len": 8191}
    return EngineSpec.model_validate({"target": "tensorrt_llm", **sizes, **changes})


def a_checkpoint(**changes: Any) -> CheckpointFacts:
    facts: dict[str, Any] = {
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "quant_algo": "FP8",
        "kv_cache_quant_algo": "FP8",
        "num_hidden_layers": 32,
        "vocab_size": 128256,
        "context_tokens": 131072,
    }
    return CheckpointFacts(**{**facts, **changes})


def a_plan(
    engine: EngineSpec | None = None,
    facts: CheckpointFacts | None = None,
    *,
    role: str = "target",
    sm: int | None = 90,
    gpus: int | None = 8,
    output_dir: str = "/models/llama/engine",
    runtime: RuntimeSpec | None = None,
) -> BuildPlan:
    return plan_build(
        engine or an_engine(),
        facts or a_checkpoint(),
        role=role,  # type: ignore[arg-type]
        checkpoint_dir="/models/llama/checkpoint",
        output_dir=output_dir,
        sm=sm,
        gpus=gpus,
        container=IMAGE,
        runtime=runtime,
    )


def flags(plan: BuildPlan) -> dict[str, str]:
    """Each flag of the command, without dashes, and the words after it."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in plan.command.argv[1:]:
        if word.startswith("--"):
            name = word.removeprefix("--")
            assert name not in found, f"{name} is given twice"
            found[name] = []
        else:
            found[name].append(word)
    return {name: " ".join(words) for name, words in found.items()}


def reasons(plan: BuildPlan) -> dict[tuple[str, str], str]:
    return {(derived.flag, derived.value): derived.reason for derived in plan.derived}


def write_checkpoint(directory: Path, changes: Mapping[str, Any] | None = None, *, ranks: int = 1) -> Path:
    """A directory with the config.json of a Llama and rank files that nobody reads."""
    config: dict[str, Any] = {
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "mapping": {"world_size": ranks, "tp_size": ranks, "pp_size": 1},
        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]},
    }
    directory.mkdir(parents=True, exist_ok=True)
    whole = {key: value for key, value in {**config, **(changes or {})}.items() if value is not ...}
    (directory / "config.json").write_text(json.dumps(whole))
    for rank in range(ranks):
        (directory / f"rank{rank}.safetensors").write_bytes(b"weights!")
    return directory
