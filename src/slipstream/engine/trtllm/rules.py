"""What is refused before `trtllm-build` runs, rather than after an hour or, silently, never.

Sources, TensorRT-LLM 1.2: tensorrt_llm/builder.py (`build`, `_init_max_seq_len`), tensorrt_llm/commands/build.py
(`build_model`), tensorrt_llm/lora_manager.py (names of modules), cpp/tensorrt_llm/batch_manager/trtGptModel.h
(prompts without chunked context), examples/draft_target_model/README.md and examples/lookahead/README.md; draft logits
of another size: NVIDIA/TensorRT-LLM issue 2789.

What the spec can see by itself (beams with speculation, multiple profiles with opt_num_tokens, EAGLE's limits, …) it
refuses by itself.
"""

from __future__ import annotations

from typing import Literal

from slipstream.engine.trtllm.attention import as_built
from slipstream.engine.trtllm.facts import CheckpointFacts
from slipstream.engine.trtllm.option_rules import check_options
from slipstream.engine.trtllm.options import lookahead_draft_len, options_for
from slipstream.errors import SpecError
from slipstream.formats import ADA, BLACKWELL, FORMATS, NO_INTEGERS, KvCache, sm_problem
from slipstream.spec.engine import EngineSpec, TrtllmBuildSpec
from slipstream.spec.runtime import RuntimeSpec

Role = Literal["target", "draft"]

LORA_MODULES = (
    "attn_qkv",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_dense",
    "mlp_h_to_4h",
    "mlp_4h_to_h",
    "mlp_gate",
    "cross_attn_qkv",
    "cross_attn_q",
    "cross_attn_k",
    "cross_attn_v",
    "cross_attn_dense",
    "moe_h_to_4h",
    "moe_4h_to_h",
    "moe_gate",
    "moe_router",
    "mlp_router",
    "mlp_gate_up",
)
# Rows that are no token: Qwen2.5 has 151936 rows up to 3B and 152064 from 7B on, of one tokenizer.
_MOST_PADDING = 256
_HEADS = {"medusa": "MedusaForCausalLM", "eagle": "EagleForCausalLM"}
_KV: dict[str | None, KvCache] = {None: "auto", "FP8": "fp8", "INT8": "int8"}


def check_build(
    engine: EngineSpec, facts: CheckpointFacts, *, role: Role, sm: int | None, runtime: RuntimeSpec | None = None
) -> None:
    """Raise SpecError for the first thing that `trtllm-build` would refuse, or would silently take away.

    With `runtime`, losing paged attention is refused only where something needs it; without, wherever it is asked for.
    """
    options = options_for(engine, role)
    _check_parallelism(engine, facts, role)
    _check_sm(facts, role, sm)
    _check_context(engine, facts, role)
    if role == "target" and runtime is not None:
        _check_prompts(engine, runtime)
    _check_paged_context(engine, facts, options, role, sm, runtime)
    check_options(engine, facts, options, sm)
    if engine.draft is not None:
        _check_draft_target(facts, role)
    if role == "target":
        _check_heads(engine, facts)
        _check_lora(engine)


def check_pair(target: CheckpointFacts, draft: CheckpointFacts, *, use_draft_logits: bool = False) -> None:
    """Raise SpecError unless the draft's tokens, and its logits where they are used, can be verified by the target.

    Sizes alone cannot show that ids mean the same text: the quantize stage compares the tokenizers id by id.
    """
    if target.vocab_size is None or draft.vocab_size is None:
        return
    sizes = f"engine.draft.model has a vocabulary of {draft.vocab_size}, model one of {target.vocab_size}"
    apart = abs(target.vocab_size - draft.vocab_size)
    if apart > _MOST_PADDING:
        raise SpecError(
            f"{sizes}: a token of one would be another text in the other",
            mend="choose a draft of the same family, with the same tokenizer",
        )
    if apart and use_draft_logits:
        raise SpecError(
            f"{sizes}, and engine.draft.use_draft_logits is true: TensorRT-LLM copies rows of one size only",
            mend="set engine.draft.use_draft_logits to false, or choose a draft that is padded as the target is",
        )


def _check_parallelism(engine: EngineSpec, facts: CheckpointFacts, role: Role) -> None:
    for name, wanted, found in (
        ("tp_size", engine.tp_size, facts.tp_size),
        ("pp_size", engine.pp_size, facts.pp_size),
        ("tp_size x pp_size", engine.world_size, facts.world_size),
    ):
        if wanted != found:
            raise SpecError(
                f"engine.{name} is {wanted}, the {role}'s checkpoint is cut for {found}",
                mend="quantize again, or name the checkpoint's own tp_size and pp_size",
            )


def _check_sm(facts: CheckpointFacts, role: Role, sm: int | None) -> None:
    problem = None if sm is None else _sm_problem(facts, sm)
    if problem is not None:
        field = "quantization" if role == "target" else "engine.draft.quantization"
        raise SpecError(f"{field}: {problem}", mend=f"choose a recipe that sm_{sm} runs, or other GPUs")


def _sm_problem(facts: CheckpointFacts, sm: int) -> str | None:
    algo, kv_cache = facts.quant_algo, _KV.get(facts.kv_cache_quant_algo, "auto")
    for method, entry in FORMATS.items():
        if entry.quant_algo == algo:
            return sm_problem(method, sm, kv_cache)
    return sm_problem("none", sm, kv_cache) or _foreign_sm_problem(algo or "", sm)


def _foreign_sm_problem(algo: str, sm: int) -> str | None:
    """For formats that have no recipe: checkpoints that were made elsewhere."""
    if "FP4" in algo:
        return f"{algo} needs sm_{BLACKWELL} or newer, the GPU is sm_{sm}" if sm < BLACKWELL else None
    if sm in NO_INTEGERS and (algo.startswith(("W4A16", "W8A16", "W8A8_SQ", "INT8", "W4A8_Q")) or "_PER_" in algo):
        return f"{algo} is rejected by TensorRT-LLM on sm_100 to sm_119, the GPU is sm_{sm}"
    if algo.startswith("FP8") and sm < ADA:
        return f"{algo} needs sm_{ADA} or newer, the GPU is sm_{sm}"
    return None


def _check_context(engine: EngineSpec, facts: CheckpointFacts, role: Role) -> None:
    limit = facts.context_tokens
    if limit is not None and engine.max_seq_len > limit:
        why = ": a draft reads the same text" if role == "draft" else ""
        raise SpecError(
            f"engine.max_seq_len is {engine.max_seq_len}, the {role} model was made for {limit} tokens{why}",
            mend=f"set engine.max_seq_len to {limit} or less",
        )


def _check_prompts(engine: EngineSpec, runtime: RuntimeSpec) -> None:
    if not runtime.enable_chunked_context and engine.max_input_len > engine.max_num_tokens:
        raise SpecError(
            f"engine.max_input_len is {engine.max_input_len} and runtime.enable_chunked_context false: without chunks a"
            f" prompt has at most engine.max_num_tokens, {engine.max_num_tokens}",
            mend="set runtime.enable_chunked_context to true, or raise engine.max_num_tokens",
        )


def _check_paged_context(
    engine: EngineSpec,
    facts: CheckpointFacts,
    options: TrtllmBuildSpec,
    role: Role,
    sm: int | None,
    runtime: RuntimeSpec | None,
) -> None:
    lost = as_built(facts, paged=options.use_paged_context_fmha, fp8=True, sm=sm).paged_reason
    needed_by = _needs_paged_context(engine, runtime)
    if lost and needed_by:
        field = "quantization" if role == "target" else "engine.draft.quantization"
        raise SpecError(
            f"{field}.kv_cache is {facts.kv_cache_quant_algo} and {' and '.join(needed_by)} is asked for: trtllm-build"
            f" would silently switch paged context attention off, because {lost}",
            mend=f"set {field}.kv_cache to auto, or leave out what needs paged context attention",
        )


def _needs_paged_context(engine: EngineSpec, runtime: RuntimeSpec | None) -> list[str]:
    if runtime is None:
        names = ["engine.trtllm_build.use_paged_context_fmha"] if engine.trtllm_build.use_paged_context_fmha else []
    else:
        names = [
            f"runtime.{name}" for name in ("enable_kv_cache_reuse", "enable_chunked_context") if getattr(runtime, name)
        ]
    return [
        *names,
        *(["engine.draft"] if engine.draft else []),
        *(["engine.speculation"] if engine.speculation else []),
    ]


def _check_draft_target(facts: CheckpointFacts, role: Role) -> None:
    if facts.quant_algo not in {None, "FP8"} or facts.dtype == "float32":
        field = "quantization" if role == "target" else "engine.draft.quantization"
        raise SpecError(
            f"{field}: the {role}'s weights are {facts.weights}, draft-target speculation of"
            " TensorRT-LLM is for FP16, BF16 and FP8",
            mend=f"set {field}.recipe to fp8 or none, or leave out engine.draft",
        )


def _check_heads(engine: EngineSpec, facts: CheckpointFacts) -> None:
    speculation = engine.speculation
    if speculation is None:
        if facts.max_draft_len is not None:
            raise SpecError(
                f"engine.checkpoint_dir holds {facts.architecture} with heads for {facts.max_draft_len} draft tokens,"
                " and engine.speculation is missing",
                mend="set engine.speculation to the heads' mode and max_draft_len",
            )
        return
    wanted = speculation.max_draft_len
    if speculation.mode == "lookahead":
        needed = lookahead_draft_len(speculation)
        if wanted < needed:
            raise SpecError(
                f"engine.speculation.max_draft_len is {wanted}, its window, n-gram and verification set need {needed}",
                mend=f"set engine.speculation.max_draft_len to {needed}",
            )
    elif facts.is_read:
        _check_trained_heads(speculation.mode, wanted, facts)


def _check_trained_heads(mode: str, wanted: int, facts: CheckpointFacts) -> None:
    architecture = _HEADS[mode]
    if facts.architecture != architecture:
        raise SpecError(
            f"engine.speculation.mode is {mode}, engine.checkpoint_dir holds {facts.architecture}, not {architecture}",
            mend="convert the model with its heads by TensorRT-LLM's convert_checkpoint.py",
        )
    if facts.max_draft_len != wanted:
        raise SpecError(
            f"engine.speculation.max_draft_len is {wanted}, the heads in engine.checkpoint_dir draft"
            f" {facts.max_draft_len}",
            mend="set engine.speculation.max_draft_len to the checkpoint's",
        )
    if mode == "eagle" and facts.num_eagle_layers is None:
        raise SpecError(
            "engine.checkpoint_dir: config.json has no num_eagle_layers, trtllm-build needs it for EAGLE",
            mend="convert the checkpoint again with TensorRT-LLM's convert_checkpoint.py",
        )


def _check_lora(engine: EngineSpec) -> None:
    if engine.lora is None:
        return
    for name in engine.lora.target_modules:
        if name not in LORA_MODULES:
            raise SpecError(
                f"engine.lora.target_modules has {name!r}, TensorRT-LLM knows {', '.join(LORA_MODULES)}",
                mend="use these names, not Hugging Face's: q_proj is attn_q, gate_proj is mlp_h_to_4h",
            )
