"""The stages in order, and what each one's artifact depends on.

=================  ==========  ==================================================================
artifact           verb        made from
=================  ==========  ==================================================================
model              quantize    `model.source`, `model.dtype`
checkpoint         quantize    the model, `quantization`, the recipe and its texts, tp and pp
engine             build       the checkpoint and, for the GPU, all sizes and build options; the GPU
model_repository   render      the engine, the rest of `engine` and what of `runtime` models read
draft/model …      quantize    the same for `engine.draft`, where there is one
=================  ==========  ==================================================================

The target decides how: `openvino` builds a graph, `tensorrt_llm` runs trtllm-build once a model, `llmapi` has no engine
and a checkpoint in Hugging Face's own layout. Changing a port or a timeout makes nothing again; changing a recipe makes
everything after the model again.
"""

from __future__ import annotations

from slipstream.pipeline.checkpoints import (
    CHECKPOINT,
    DRAFT_CHECKPOINT,
    DRAFT_MODEL,
    DRAFT_UNIFIED,
    MODEL,
    UNIFIED,
)
from slipstream.pipeline.engines import (
    DRAFT_ENGINE,
    ENGINE,
    OPENVINO_DRAFT_ENGINE,
    TRTLLM_ENGINE,
    checkpoint_of,
    trtllm_stages,
)
from slipstream.pipeline.hardware import the_gpu
from slipstream.pipeline.repositories import GPU_REPOSITORY, REPOSITORY, locations_in
from slipstream.pipeline.stage import Context, Outcome, Stage, is_current, require, run_stage
from slipstream.spec import DeploymentSpec

__all__ = [
    "CHECKPOINT",
    "DRAFT_CHECKPOINT",
    "DRAFT_ENGINE",
    "DRAFT_MODEL",
    "DRAFT_UNIFIED",
    "ENGINE",
    "GPU_REPOSITORY",
    "MODEL",
    "OPENVINO_DRAFT_ENGINE",
    "REPOSITORY",
    "TRTLLM_ENGINE",
    "UNIFIED",
    "Context",
    "Outcome",
    "Stage",
    "checkpoint_of",
    "is_current",
    "locations_in",
    "require",
    "run_stage",
    "stages_for",
    "the_gpu",
]


def stages_for(spec: DeploymentSpec) -> tuple[Stage, ...]:
    """The stages of a deployment, in order."""
    engine = spec.engine
    # Both models before the first checkpoint: a pair that does not fit is refused before hours of work.
    models = (MODEL, DRAFT_MODEL) if engine.has_draft_model else (MODEL,)
    if engine.target == "openvino":
        if not engine.has_draft_model:
            return (*models, CHECKPOINT, ENGINE, REPOSITORY)
        return (*models, CHECKPOINT, DRAFT_CHECKPOINT, ENGINE, OPENVINO_DRAFT_ENGINE, REPOSITORY)
    if engine.target == "llmapi":
        return (*models, UNIFIED, *((DRAFT_UNIFIED,) if engine.draft else ()), GPU_REPOSITORY)
    made = (CHECKPOINT,) if engine.checkpoint_dir is None else ()
    drafts = (DRAFT_CHECKPOINT,) if engine.draft else ()
    return (*models, *made, *drafts, *trtllm_stages(engine), GPU_REPOSITORY)
