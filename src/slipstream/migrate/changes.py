"""What changes for whoever runs a deployment, and for its clients, named one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from slipstream.formats import FORMATS
from slipstream.migrate.tables import (
    BACKEND_PARAMETERS,
    BUILD_OPTIONS,
    FEATURES,
    INPUTS,
    MODELS,
    NEW_INPUTS,
    OUTPUTS,
    RUNTIME,
    SPECULATION,
    Fate,
)
from slipstream.spec import DeploymentSpec, QuantizationSpec
from slipstream.spec.groups import Group

Kind = Literal["recipe", "parameter", "feature", "model", "tensor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that is called otherwise, has another value, or is gone."""

    kind: Kind
    old: str  # `name: value` of a field that the deployment sets, else a name; empty: there was nothing
    new: str | None  # None: gone
    note: str = ""


def changes_between(old: DeploymentSpec, new: DeploymentSpec) -> tuple[Change, ...]:
    """All changes, those of this deployment first; names that stay as they are are left out."""
    return (
        *_recipes("", old.quantization, new.quantization),
        *_draft(old, new),
        *_speculation(old),
        *_engine(old),
        *_fates("engine.trtllm_build", old.engine.trtllm_build, BUILD_OPTIONS),
        *_runtime(old, new),
        *_fates("runtime.tensorrt_llm", old.runtime.tensorrt_llm, BACKEND_PARAMETERS),
        *(Change(kind="feature", old=name, new=None, note=note) for name, note in FEATURES),
        *_client_side(),
    )


def _recipes(field: str, old: QuantizationSpec, new: QuantizationSpec) -> Iterator[Change]:
    if old.recipe != new.recipe:
        reason = f"the LLM API has no kernel for {FORMATS[old.recipe].quant_algo}; the accuracy gate measures it anew"
        yield _value(f"{field}quantization.recipe", old.recipe, new.recipe, reason, kind="recipe")
    elif old.recipe not in FORMATS:
        reason = "its method must be one that the LLM API reads: slipstream quantize refuses it otherwise"
        yield _value(f"{field}quantization.recipe", old.recipe, new.recipe, reason, kind="recipe")
    if old.kv_cache != new.kv_cache:
        reason = "the LLM API has no INT8 KV cache"
        yield _value(f"{field}quantization.kv_cache", old.kv_cache, new.kv_cache, reason, kind="recipe")


def _draft(old: DeploymentSpec, new: DeploymentSpec) -> Iterator[Change]:
    before, after = old.engine.draft, new.engine.draft
    if before is None or after is None:
        return
    yield from _recipes("engine.draft.", before.quantization, after.quantization)
    if before.use_draft_logits:
        yield Change(kind="parameter", old="engine.draft.use_draft_logits: true", new=None, note="the LLM API decides")
    yield Change(
        kind="parameter",
        old=f"engine.draft.kv_cache_free_gpu_mem_fraction: {before.kv_cache_free_gpu_mem_fraction:g}",
        new=f"runtime.kv_cache_free_gpu_mem_fraction: {new.runtime.kv_cache_free_gpu_mem_fraction:g}",
        note="target and draft share one KV budget",
    )
    yield Change(
        kind="feature",
        old="speculation without streaming, one request at a time, num_draft_tokens in each request",
        new="every request speculates, streams too",
        note="engine.draft.max_draft_len is for all",
    )


def _speculation(old: DeploymentSpec) -> Iterator[Change]:
    speculation = old.engine.speculation
    if speculation is not None:
        fate = SPECULATION[speculation.mode]
        new = None if fate.new is None else f"engine.speculation.mode: {fate.new}"
        yield Change(kind="parameter", old=f"engine.speculation.mode: {speculation.mode}", new=new, note=fate.note)


def _engine(old: DeploymentSpec) -> Iterator[Change]:
    engine = old.engine
    if engine.max_beam_width > 1:
        note = "beam search has no tensor"
        yield Change(kind="parameter", old=f"engine.max_beam_width: {engine.max_beam_width}", new=None, note=note)
    if engine.checkpoint_dir is not None:
        note = "a TensorRT-LLM checkpoint cannot be loaded: model.source is quantized for Hugging Face's layout"
        yield Change(kind="parameter", old=f"engine.checkpoint_dir: {engine.checkpoint_dir}", new=None, note=note)
    if engine.lora is not None:
        modules = ", ".join(engine.lora.target_modules)
        note = "no tensor chooses an adapter in 1.2.1: merge one into model.source, or keep the engine"
        yield Change(kind="parameter", old=f"engine.lora: {modules}", new=None, note=note)


def _runtime(old: DeploymentSpec, new: DeploymentSpec) -> Iterator[Change]:
    yield from _fates("runtime", old.runtime, RUNTIME)
    before, after = old.runtime.startup_timeout_s, new.runtime.startup_timeout_s
    if before != after:
        note = "weights are loaded, and kernels tuned, at every start"
        yield _value("runtime.startup_timeout_s", str(before), str(after), note)
    note = "the BLS model needed it; the LLM API speculates within a stream"
    for name in ("decoupled", "exclude_input_in_output"):
        was, is_now = getattr(old.runtime, name), getattr(new.runtime, name)
        if was != is_now:
            yield _value(f"runtime.{name}", _text(was), _text(is_now), note)


def _fates(prefix: str, group: Group, fates: Mapping[str, Fate]) -> Iterator[Change]:
    """Of the fields that the deployment sets to something else than the default."""
    for name, value in group.model_dump(exclude_defaults=True).items():
        if name in fates:
            fate = fates[name]
            yield Change(kind="parameter", old=f"{prefix}.{name}: {_text(value)}", new=fate.new, note=fate.note)


def _client_side() -> Iterator[Change]:
    for name, fate in MODELS.items():
        yield Change(kind="model", old=name, new=fate.new, note=fate.note)
    for name, fate in (*INPUTS.items(), *OUTPUTS.items()):
        if fate.new != name:
            yield Change(kind="tensor", old=name, new=fate.new, note=fate.note)
    for name, note in NEW_INPUTS.items():
        yield Change(kind="tensor", old="", new=name, note=note)
    yield Change(kind="tensor", old="shape [1, 1] of every tensor", new="shape [1]", note="no batch dimension")


def _value(field: str, old: str, new: str, note: str, *, kind: Kind = "parameter") -> Change:
    return Change(kind=kind, old=f"{field}: {old}", new=f"{field}: {new}", note=note)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
