"""What each model of the repository is, for one deployment: backend, batching, instances, parameters.

Tensors are not here: they come from the contract and are the same for every deployment.
"""

from __future__ import annotations

from collections.abc import Mapping

from slipstream.repository.engine_slot import ENGINE_BACKEND, plan_draft, plan_engine
from slipstream.repository.limits import check_settings
from slipstream.repository.model_plan import Batching, Locations, ModelPlan
from slipstream.repository.sources import values_from
from slipstream.repository.watch_steps import WATCH_STEPS
from slipstream.spec import DeploymentSpec, Target

__all__ = ["ENGINE_BACKEND", "Batching", "Locations", "ModelPlan", "plan_models"]

# Whether Triton's dynamic batcher sits before `postprocessing`, as upstream declares it. In Triton 2.51 it drops the
# steps of an ensemble whose client has gone: the engine never hears of it, the ensemble's request stays in flight for
# ever, and the server then stops by its timeout only. Without the batcher the steps arrive, marked as cancelled.
POSTPROCESSING_BATCHES: Mapping[Target, bool] = {"openvino": False, "tensorrt_llm": True}


def plan_models(spec: DeploymentSpec, locations: Locations) -> tuple[ModelPlan, ...]:
    """The models of a deployment: the contract's five, and `tensorrt_llm_draft` when it speculates.

    Raises SpecError for settings with which an engine would not load, or which it would drop without a word.
    """
    check_settings(spec, locations)
    plans = [
        _preprocessing(spec, locations),
        plan_engine(spec, locations),
        _postprocessing(spec, locations),
        _ensemble(spec),
        _bls(spec, locations),
    ]
    if spec.engine.draft is not None:
        plans.append(plan_draft(spec, spec.engine.draft, locations))
    return tuple(plans)


def _preprocessing(spec: DeploymentSpec, locations: Locations) -> ModelPlan:
    return ModelPlan(
        name="preprocessing",
        backend="python",
        max_batch_size=spec.runtime.triton_max_batch_size,
        batching=Batching.of(spec.runtime),
        instances=spec.runtime.preprocessing_instances,
        parameters={**values_from(spec, "preprocessing"), "tokenizer_dir": locations.tokenizer_dir},
    )


def _postprocessing(spec: DeploymentSpec, locations: Locations) -> ModelPlan:
    return ModelPlan(
        name="postprocessing",
        backend="python",
        max_batch_size=spec.runtime.triton_max_batch_size,
        batching=Batching() if POSTPROCESSING_BATCHES[spec.engine.target] else None,
        instances=spec.runtime.postprocessing_instances,
        parameters={**values_from(spec, "postprocessing"), "tokenizer_dir": locations.tokenizer_dir},
    )


def _ensemble(spec: DeploymentSpec) -> ModelPlan:
    return ModelPlan(
        name="ensemble",
        backend=None,
        max_batch_size=spec.runtime.triton_max_batch_size,
        # A model with one response a request cannot be asked in between.
        further_steps=WATCH_STEPS if spec.engine.target == "openvino" and spec.runtime.decoupled else (),
    )


def _bls(spec: DeploymentSpec, locations: Locations) -> ModelPlan:
    return ModelPlan(
        name="tensorrt_llm_bls",
        backend="python",
        max_batch_size=spec.runtime.triton_max_batch_size,
        decoupled=spec.runtime.decoupled,
        instances=spec.runtime.bls_instances,
        parameters={
            **values_from(spec, "tensorrt_llm_bls"),
            "tokenizer_dir": locations.tokenizer_dir,
            "tensorrt_llm_model_name": "tensorrt_llm",
            "tensorrt_llm_draft_model_name": "tensorrt_llm_draft" if spec.engine.draft else None,
            "slipstream_max_seq_len": spec.engine.max_seq_len if spec.engine.draft else None,
            "slipstream_link": True if spec.engine.target == "openvino" and spec.engine.draft is None else None,
        },
    )
