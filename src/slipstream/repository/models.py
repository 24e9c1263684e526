"""What each model of the repository is, for one deployment: backend, batching, instances, parameters.

Tensors are not here: they come from the contract and are the same for every deployment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slipstream.repository.contract import contract, contract_name
from slipstream.repository.parameters import Value
from slipstream.spec import DeploymentSpec, DraftSpec, RuntimeSpec, Target

# The backend in the `tensorrt_llm` slot. The embedded engine runs in Triton's Python backend.
ENGINE_BACKEND: Mapping[Target, str] = {"openvino": "python", "tensorrt_llm": "tensorrtllm"}

# Whether Triton's dynamic batcher sits before `postprocessing`, as upstream declares it. In Triton 2.51 it drops the
# steps of an ensemble whose client has gone: the engine never hears of it, the ensemble's request stays in flight for
# ever, and the server then stops by its timeout only. Without the batcher the steps arrive, marked as cancelled.
POSTPROCESSING_BATCHES: Mapping[Target, bool] = {"openvino": False, "tensorrt_llm": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Locations:
    """Where the server finds a deployment's artifacts: absolute paths as the *server* sees them."""

    engine_dir: str
    tokenizer_dir: str
    draft_engine_dir: str | None = None
    draft_tokenizer_dir: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """Triton's dynamic batcher in front of a model."""

    preferred_batch_size: int | None = None
    max_queue_delay_us: int = 0
    max_queue_size: int = 0  # 0: no limit


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """One model of the repository, all but its tensors."""

    name: str
    backend: str | None  # None: an ensemble
    max_batch_size: int
    decoupled: bool | None = None  # None: the model has no policy of its own
    batching: Batching | None = None
    instances: int | None = None  # processes on the CPU; None: an ensemble has none
    parameters: Mapping[str, Value] = field(default_factory=dict)


def plan_models(spec: DeploymentSpec, locations: Locations) -> tuple[ModelPlan, ...]:
    """The models of a deployment: the contract's five, and `tensorrt_llm_draft` when it speculates."""
    plans = [
        _preprocessing(spec, locations),
        _engine(spec, locations),
        _postprocessing(spec, locations),
        ModelPlan(name="ensemble", backend=None, max_batch_size=spec.runtime.triton_max_batch_size),
        _bls(spec, locations),
    ]
    if spec.engine.draft is not None:
        plans.append(_draft(spec, spec.engine.draft, locations))
    return tuple(plans)


def _preprocessing(spec: DeploymentSpec, locations: Locations) -> ModelPlan:
    return ModelPlan(
        name="preprocessing",
        backend="python",
        max_batch_size=spec.runtime.triton_max_batch_size,
        batching=_batching(spec.runtime),
        instances=spec.runtime.preprocessing_instances,
        parameters={"tokenizer_dir": locations.tokenizer_dir, "add_special_tokens": spec.runtime.add_special_tokens},
    )


def _postprocessing(spec: DeploymentSpec, locations: Locations) -> ModelPlan:
    return ModelPlan(
        name="postprocessing",
        backend="python",
        max_batch_size=spec.runtime.triton_max_batch_size,
        batching=Batching() if POSTPROCESSING_BATCHES[spec.engine.target] else None,
        instances=spec.runtime.postprocessing_instances,
        parameters={"tokenizer_dir": locations.tokenizer_dir, "skip_special_tokens": True},
    )


def _bls(spec: DeploymentSpec, locations: Locations) -> ModelPlan:
    return ModelPlan(
        name="tensorrt_llm_bls",
        backend="python",
        max_batch_size=spec.runtime.triton_max_batch_size,
        decoupled=spec.runtime.decoupled,
        instances=spec.runtime.bls_instances,
        parameters={
            "tokenizer_dir": locations.tokenizer_dir,
            "add_special_tokens": spec.runtime.add_special_tokens,
            "skip_special_tokens": True,
            "accumulate_tokens": False,
            "tensorrt_llm_model_name": "tensorrt_llm",
            "tensorrt_llm_draft_model_name": "tensorrt_llm_draft" if spec.engine.draft else None,
        },
    )


def _engine(spec: DeploymentSpec, locations: Locations) -> ModelPlan:
    """The engine's slot; a compiled engine knows its own limits, the embedded one is told."""
    if spec.engine.target == "openvino":
        parameters = _embedded_parameters(spec)
    else:
        parameters = _gpu_parameters(spec.runtime.kv_cache_free_gpu_mem_fraction)
    return ModelPlan(
        name="tensorrt_llm",
        backend=ENGINE_BACKEND[spec.engine.target],
        max_batch_size=spec.runtime.triton_max_batch_size,
        decoupled=spec.runtime.decoupled,
        batching=_batching(spec.runtime),
        instances=1,
        parameters={**_engine_parameters(spec, locations.engine_dir, locations.tokenizer_dir), **parameters},
    )


def _draft(spec: DeploymentSpec, draft: DraftSpec, locations: Locations) -> ModelPlan:
    assert locations.draft_engine_dir is not None, locations
    assert locations.draft_tokenizer_dir is not None, locations
    return ModelPlan(
        name="tensorrt_llm_draft",
        backend=ENGINE_BACKEND[spec.engine.target],
        max_batch_size=spec.runtime.triton_max_batch_size,
        decoupled=spec.runtime.decoupled,
        batching=_batching(spec.runtime),
        instances=1,
        parameters={
            **_engine_parameters(spec, locations.draft_engine_dir, locations.draft_tokenizer_dir),
            **_gpu_parameters(draft.kv_cache_free_gpu_mem_fraction),
        },
    )


def _engine_parameters(spec: DeploymentSpec, engine_dir: str, tokenizer_dir: str) -> dict[str, Value]:
    """What both backends of the `tensorrt_llm` slot read."""
    runtime = spec.runtime
    return {
        "gpt_model_type": "inflight_fused_batching",
        "gpt_model_path": engine_dir,
        "tokenizer_dir": tokenizer_dir,
        "guided_decoding_backend": "",
        "xgrammar_tokenizer_info_path": "",
        "max_beam_width": spec.engine.max_beam_width,
        "batch_scheduler_policy": runtime.batch_scheduler_policy,
        "enable_kv_cache_reuse": runtime.enable_kv_cache_reuse,
        "enable_chunked_context": runtime.enable_chunked_context,
        "exclude_input_in_output": runtime.exclude_input_in_output,
        "cancellation_check_period_ms": runtime.cancellation_check_period_ms,
        "stats_check_period_ms": runtime.stats_check_period_ms,
    }


def _gpu_parameters(kv_cache_free_gpu_mem_fraction: float) -> dict[str, Value]:
    known = contract()[contract_name("tensorrt_llm")].parameters
    return {
        "FORCE_CPU_ONLY_INPUT_TENSORS": known["FORCE_CPU_ONLY_INPUT_TENSORS"].fixed,
        "executor_worker_path": known["executor_worker_path"].fixed,
        "kv_cache_free_gpu_mem_fraction": kv_cache_free_gpu_mem_fraction,
    }


def _embedded_parameters(spec: DeploymentSpec) -> dict[str, Value]:
    return {
        "slipstream_execution": spec.runtime.execution,
        "slipstream_kv_cache_gib": spec.runtime.kv_cache_gib,
        "slipstream_max_batch_size": spec.engine.max_batch_size,
        "slipstream_max_num_tokens": spec.engine.max_num_tokens,
        "slipstream_max_seq_len": spec.engine.max_seq_len,
        "slipstream_max_input_len": spec.engine.max_input_len,
    }


def _batching(runtime: RuntimeSpec) -> Batching:
    return Batching(
        preferred_batch_size=runtime.triton_max_batch_size,
        max_queue_delay_us=runtime.max_queue_delay_microseconds,
        max_queue_size=runtime.max_queue_size,
    )
