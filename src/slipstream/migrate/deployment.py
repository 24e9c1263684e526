"""The settings of the new deployment file: what of the old one the LLM API has a word for."""

from __future__ import annotations

from typing import Any

from slipstream.formats import ADA, FORMATS, KvCache, sm_problem
from slipstream.migrate.tables import RUNTIME, SPECULATION
from slipstream.spec import DeploymentSpec, DraftSpec, QuantizationSpec

STARTUP_TIMEOUT_S = 900  # at least: weights are loaded, kernels tuned and graphs captured at every start

# Of the draft: one KV budget, and one way to verify, for both models.
_DRAFT_GONE = ("kv_cache_free_gpu_mem_fraction", "use_draft_logits")
_ENGINE_GONE = ("trtllm_build", "checkpoint_dir", "lora", "max_beam_width", "speculation", "draft")


def new_settings(spec: DeploymentSpec, *, name: str, sm: int | None) -> dict[str, Any]:
    """The new file's contents, without what a default says anyway; `sm` is the GPU's, as 90, where it is known."""
    old = spec.model_dump(exclude_defaults=True, mode="json")
    settings = {
        "name": name,
        "description": f"{spec.description} (LLM API)".strip()[:2000],
        "model": old["model"],
        "quantization": _quantization(spec.quantization, sm),
        "engine": {**_without(old["engine"], _ENGINE_GONE), "target": "llmapi", **_speculation(spec, sm)},
        "runtime": _runtime(spec, old.get("runtime", {})),
        "gateway": old.get("gateway", {}),
        "hardware": old.get("hardware", {}),
    }
    return {key: value for key, value in settings.items() if value != {}}


def recipe_for(recipe: str, sm: int | None) -> str:
    """The recipe itself where the LLM API reads its format, else the nearest one that does and that the GPU runs.

    A recipe that is named after no format is kept: the quantize stage refuses it if its method cannot be read.
    """
    entry = FORMATS.get(recipe)
    if entry is None or entry.llm_api:
        return recipe
    fitting = [name for name in entry.next_recipes if FORMATS[name].llm_api]
    return next((name for name in fitting if sm is None or sm_problem(name, sm) is None), fitting[-1])


def kv_cache_for(quantization: QuantizationSpec, recipe: str, sm: int | None) -> KvCache:
    """INT8 is unknown to the LLM API: FP8 where GPU and recipe (its scales are calibrated) allow it, else 16 bits."""
    if quantization.kv_cache != "int8":
        return quantization.kv_cache
    entry = FORMATS.get(recipe)
    can_be_fp8 = (sm is None or sm >= ADA) and entry is not None and entry.needs_calibration
    return "fp8" if can_be_fp8 else "auto"


def draft_kv_fraction(spec: DeploymentSpec, draft: DraftSpec) -> float:
    """Target and draft share one budget."""
    return round(spec.runtime.kv_cache_free_gpu_mem_fraction + draft.kv_cache_free_gpu_mem_fraction, 4)


def _quantization(quantization: QuantizationSpec, sm: int | None) -> dict[str, Any]:
    recipe = recipe_for(quantization.recipe, sm)
    kv_cache = kv_cache_for(quantization, recipe, sm)
    return {"recipe": recipe, **({"kv_cache": kv_cache} if kv_cache != "auto" else {})}


def _speculation(spec: DeploymentSpec, sm: int | None) -> dict[str, Any]:
    draft, speculation = spec.engine.draft, spec.engine.speculation
    if draft is not None:
        old = _without(draft.model_dump(exclude_defaults=True, mode="json"), _DRAFT_GONE)
        return {"draft": {**old, "quantization": _quantization(draft.quantization, sm)}}
    if speculation is not None and (mode := SPECULATION[speculation.mode].new) is not None:
        return {"speculation": {"mode": mode, "max_draft_len": speculation.max_draft_len}}
    return {}


def _runtime(spec: DeploymentSpec, old: dict[str, Any]) -> dict[str, Any]:
    runtime = _without(old, (*RUNTIME, "tensorrt_llm"))
    if spec.engine.draft is not None:
        # These were forced by the BLS model; the LLM API speculates within a stream.
        runtime = _without(runtime, ("decoupled", "exclude_input_in_output"))
        runtime["kv_cache_free_gpu_mem_fraction"] = draft_kv_fraction(spec, spec.engine.draft)
    runtime["startup_timeout_s"] = max(spec.runtime.startup_timeout_s, STARTUP_TIMEOUT_S)
    if spec.runtime.tensorrt_llm.cuda_graph_mode is False:
        runtime["llmapi"] = {"cuda_graph": False}
    return runtime


def _without(settings: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}
