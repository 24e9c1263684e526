"""The deployment file of a plan: every setting with the reason for its value, in a comment and for the document."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import yaml

from slipstream.plan.candidates import KV_FRACTION
from slipstream.plan.memory import BLOCK_TOKENS
from slipstream.plan.search import Plan
from slipstream.spec import DeploymentSpec

# Beyond this many batches a request would wait longer than it runs.
_QUEUED_BATCHES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value of the deployment file and why it is that."""

    field: str  # dotted
    value: str | int | float | bool
    reason: str


def settings(plan: Plan) -> tuple[Setting, ...]:
    """All settings that the plan decides; the others keep the spec's defaults."""
    return (*_model_settings(plan), *_engine_settings(plan), *_runtime_settings(plan))


def deployment_yaml(plan: Plan) -> str:
    """The text of `deployments/NAME.yaml`. It is validated against the spec before it is returned."""
    chosen = settings(plan)
    tree: dict[str, Any] = {}
    for setting in chosen:
        group = tree
        *path, last = setting.field.split(".")
        for name in path:
            group = group.setdefault(name, {})
        group[last] = setting.value
    DeploymentSpec.model_validate(tree)
    lines = ["# Written by `slipstream plan`; each value has its reason beside it."]
    _write(tree, {s.field: s.reason for s in chosen}, (), lines)
    text = "\n".join(lines) + "\n"
    assert yaml.safe_load(text) == tree, "the deployment file does not say what was planned"
    return text


def deployment_name(plan: Plan) -> str:
    """For example `llama-3-70b-int4-awq-tp2-h100`: a name that a deployment file may have."""
    case = plan.chosen.case
    split = f"tp{case.split.tp}" + (f"-pp{case.split.pp}" if case.split.pp > 1 else "")
    words = f"{case.model.name} {case.weights.name} {split} {case.gpu.name.split()[0]}"
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-.")[:63].rstrip("-.")


def sequence_tokens(plan: Plan) -> int:
    """Prompt and reply of the longest request that is served: the context asked for, or twice the mean lengths."""
    shape = plan.model.shape
    if plan.input.model.context_tokens is not None:
        return min(plan.input.model.context_tokens, shape.max_context)
    wanted = 2 * (plan.input.workload.input_tokens + plan.input.workload.output_tokens)
    return min(shape.max_context, BLOCK_TOKENS * math.ceil(wanted / BLOCK_TOKENS))


def _model_settings(plan: Plan) -> tuple[Setting, ...]:
    case = plan.chosen.case
    weights = case.weights
    gib = plan.chosen.memory.weight_bytes / 2**30
    quantization = (
        f"{weights.bytes_per_weight:.3g} bytes a weight, {gib:.1f} GiB on each GPU"
        if weights.name != "mxfp4"
        else f"the experts are published in MXFP4 and are used as they are, {gib:.1f} GiB on each GPU"
    )
    kv = case.kv
    per_token = plan.chosen.memory.kv_bytes_per_token / 1024
    return (
        Setting(field="name", value=deployment_name(plan), reason="model, format, split and GPU"),
        Setting(
            field="description",
            value=f"{plan.model.name}, {plan.chosen.replicas} replica(s) of {case.split.gpus} × {case.gpu.name}",
            reason="for people",
        ),
        Setting(field="model.source", value=plan.model.source, reason="the checkpoint that was asked for"),
        Setting(field="model.dtype", value="bfloat16", reason="SM 80 and newer multiply it as fast as float16"),
        Setting(
            field="quantization.recipe",
            value="none" if weights.name in {"fp16", "mxfp4"} else weights.recipe,
            reason=quantization,
        ),
        Setting(
            field="quantization.kv_cache",
            value=kv.name,
            reason=f"{per_token:.1f} KiB a token on each GPU"
            + ("" if kv.name == "fp8" else "; an 8-bit cache on these weights would switch off KV reuse and chunking"),
        ),
    )


def _engine_settings(plan: Plan) -> tuple[Setting, ...]:
    case, chosen = plan.chosen.case, plan.chosen
    longest = sequence_tokens(plan)
    limit, share = chosen.limits[0]
    return (
        Setting(field="engine.target", value="tensorrt_llm", reason=f"{case.gpu.name} is an NVIDIA GPU"),
        Setting(field="engine.tp_size", value=case.split.tp, reason=_tp_reason(plan)),
        Setting(field="engine.pp_size", value=case.split.pp, reason=_pp_reason(plan)),
        Setting(
            field="engine.max_batch_size",
            value=chosen.batch,
            reason=f"best found within the promises; {limit} takes {100 * share:.0f} % of an iteration",
        ),
        Setting(
            field="engine.max_num_tokens",
            value=max(case.max_num_tokens, chosen.batch),
            reason="TensorRT-LLM's default budget of an iteration; longer prompts are split",
        ),
        Setting(field="engine.max_seq_len", value=longest, reason=_length_reason(plan)),
        Setting(field="engine.max_input_len", value=longest - 1, reason="a prompt leaves room for one output token"),
    )


def _tp_reason(plan: Plan) -> str:
    case = plan.chosen.case
    gib = plan.chosen.memory.weight_bytes / 2**30
    if case.split.tp == 1:
        return f"weights of {gib:.1f} GiB leave room on one GPU, and no all-reduce is paid"
    link = "NVLink" if case.gpu.link == "nvlink" else "PCIe"
    return f"all-reduce stays inside a node, over {link} at {case.gpu.link_gb_s:g} GB/s"


def _pp_reason(plan: Plan) -> str:
    case = plan.chosen.case
    if case.split.pp == 1:
        return "one stage: no bubbles"
    where = "between nodes" if case.hop_gb_s else "inside the node"
    return f"stages exchange one vector a token {where}, where all-reduce would be too slow"


def _length_reason(plan: Plan) -> str:
    if plan.input.model.context_tokens is not None:
        return "the context window that was asked for"
    return "twice the mean prompt and reply, as far as the model's context goes"


def _runtime_settings(plan: Plan) -> tuple[Setting, ...]:
    chosen = plan.chosen
    tokens = plan.input.workload.input_tokens + plan.input.workload.output_tokens
    return (
        Setting(
            field="runtime.triton_max_batch_size",
            value=chosen.batch,
            reason="Triton hands over as many requests as the engine runs",
        ),
        Setting(
            field="runtime.max_queue_size",
            value=_QUEUED_BATCHES * chosen.batch,
            reason="beyond four batches in the queue a request would wait longer than it runs; it is refused instead",
        ),
        Setting(
            field="runtime.batch_scheduler_policy",
            value="guaranteed_no_evict",
            reason="a running request is never thrown out of the KV cache",
        ),
        Setting(
            field="runtime.kv_cache_free_gpu_mem_fraction",
            value=KV_FRACTION,
            reason=(
                f"{chosen.memory.kv_cache_bytes / 2**30:.1f} GiB of KV cache on each GPU, for requests of"
                f" {tokens:.0f} tokens"
            ),
        ),
        Setting(
            field="runtime.enable_kv_cache_reuse",
            value=True,
            reason="system prompts and earlier turns are not computed again",
        ),
        Setting(
            field="runtime.enable_chunked_context",
            value=True,
            reason="a long prompt does not stop running replies",
        ),
    )


def _write(tree: dict[str, Any], reasons: dict[str, str], path: tuple[str, ...], lines: list[str]) -> None:
    indent = "  " * len(path)
    for name, value in tree.items():
        here = (*path, name)
        if isinstance(value, dict):
            lines += ["", f"{name}:"] if not path else [f"{indent}{name}:"]
            _write(value, reasons, here, lines)
        else:
            # JSON is YAML; it quotes what YAML would read as something else.
            lines.append(f"{indent}{name}: {json.dumps(value, ensure_ascii=False)}  # {reasons['.'.join(here)]}")
