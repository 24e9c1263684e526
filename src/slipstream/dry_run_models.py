"""What a dry run knows of a model that has not been made, and what it refuses of it as quantizing would."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipstream.errors import SlipstreamError, SpecError
from slipstream.formats import Method, format_for
from slipstream.models_table import Family, family_of
from slipstream.pipeline import Context
from slipstream.project import Workspace, recipes_directory
from slipstream.spec import EngineSpec, ModelSpec, QuantizationSpec, Target

if TYPE_CHECKING:
    from slipstream.plan.catalogue import Model
    from slipstream.plan.shape import ModelShape
    from slipstream.quantize.recipes import Recipe

# model_type of a Hugging Face config.json → its class, by which a checkpoint's config.json names the architecture.
_ARCHITECTURES = {
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "phi": "PhiForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "phimoe": "PhiMoEForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}


def method_of(context: Context, quantization: QuantizationSpec) -> Method:
    """The method that a recipe's name stands for."""
    return recipe_of(context, quantization).settings.method


def recipe_of(context: Context, quantization: QuantizationSpec) -> Recipe:
    from slipstream.quantize.recipes import load_recipe

    return load_recipe(quantization.recipe, recipes_directory(context.root))


def known_model_of(model: ModelSpec, workspace: Workspace, *, field: str) -> Model:
    """The prepared model, that of a directory, or that of the catalogue; `field` is where the spec names it."""
    from slipstream.plan.catalogue import find_model

    prepared = workspace.model / "config.json"
    try:
        return find_model(str(prepared) if prepared.is_file() else model.source)
    except SlipstreamError as error:
        raise SlipstreamError(
            f"{field}.source: {error.message}",
            mend="name a model of `slipstream plan --list`, give its directory, or fetch it first: slipstream quantize",
        ) from error


def architecture_of(model: Model, target: Target, method: Method) -> str:
    """The class that config.json names; refuses a family, or a recipe of it, that cannot be made here."""
    name = _ARCHITECTURES.get(model.family)
    family = family_of(name) if name else None
    if name is None or family is None or not family.recipes(target):
        raise _not_made(model, family, target)
    if method not in family.recipes(target):
        why = family.refused.get(method, "its PyTorch backend does not read one")
        raise SpecError(
            f"model.source {model.source}: no {_CHECKPOINTS[target]} of {family.name} is made in {method}: {why}",
            mend=f"choose a recipe of {', '.join(family.recipes(target))}",
        )
    return name


def refuse_split(shape: ModelShape, engine: EngineSpec, recipe: Recipe) -> None:
    """Refuses, as quantizing would, sizes with which a rank would hold part of a head, a layer or a group."""
    from slipstream.quantize import sharding

    experts = shape.experts
    sharding.check_sharding(
        sharding.ModelShape(
            attention_heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_size=shape.head_dim,
            hidden_size=shape.hidden,
            intermediate_size=experts.ffn if experts else shape.ffn,
            layers=shape.layers,
            vocab_size=shape.vocab,
            experts=experts.count if experts else None,
        ),
        sharding.Parallel(tp_size=engine.tp_size, pp_size=engine.pp_size, moe_ep_size=engine.moe_ep_size),
        format_for(recipe.settings.method),
        recipe.settings.group_size,
    )


def refuse_unreadable_by_llm_api(context: Context) -> None:
    """Refuse, of models that are known, those of which no checkpoint for the LLM API is made."""
    from slipstream.plan.catalogue import known_model

    spec = context.spec
    for it in (spec, spec.engine.draft):
        known = known_model(it.model.source) if it is not None else None
        if it is not None and known is not None:
            architecture_of(known, "llmapi", method_of(context, it.quantization))


_CHECKPOINTS = {"tensorrt_llm": "TensorRT-LLM checkpoint", "llmapi": "checkpoint for the LLM API"}


def _not_made(model: Model, family: Family | None, target: Target) -> SlipstreamError:
    what = f"model.source {model.source}: no {_CHECKPOINTS[target]} of {model.family or 'this'} models is made here"
    if target == "llmapi":
        return SlipstreamError(what, mend="docs/models.md lists the families")
    return SlipstreamError(
        what + (f" ({family.notes})" if family else ""),
        mend="docs/models.md lists the families; engine.checkpoint_dir takes a checkpoint that was made elsewhere",
    )
