"""One run of `trtllm-build`: its command, and the reason of each value that the spec left open.

Sources, TensorRT-LLM 1.2: tensorrt_llm/commands/build.py (flags, workers), tensorrt_llm/plugin/plugin.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from slipstream.command_line import Command
from slipstream.engine.trtllm.expected import Derived, changed_by_builder, expected_build_config
from slipstream.engine.trtllm.facts import CheckpointFacts
from slipstream.engine.trtllm.options import iteration_tokens, options_for
from slipstream.engine.trtllm.plugins import Setting, plugin_settings
from slipstream.engine.trtllm.rules import Role, check_build
from slipstream.spec.engine import EngineSpec, TrtllmBuildSpec
from slipstream.spec.runtime import RuntimeSpec

# The spec's mode → the flag's choice.
_MODES = {"lookahead": "lookahead_decoding", "medusa": "medusa", "eagle": "eagle"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """One engine to be built."""

    role: Role
    command: Command
    derived: tuple[Derived, ...]
    expected: Mapping[str, Any]  # of `build_config` in the engine's config.json; `plugin_config` is a mapping in it
    world_size: int
    output_dir: str
    timing_cache: str
    sm: int | None = None  # that the engine is for; None: not known
    engine_bytes: int | None = None  # at least so many, of all ranks; None: the checkpoint was not read


def plan_build(
    engine: EngineSpec,
    facts: CheckpointFacts,
    *,
    role: Role,
    checkpoint_dir: str,
    output_dir: str,
    sm: int | None,
    gpus: int | None,
    container: str | None,
    runtime: RuntimeSpec | None = None,
) -> BuildPlan:
    """The command that builds one of a deployment's engines; SpecError for what cannot be or would silently be lost.

    `sm` and `gpus` are of the machine that builds, None where it is not known. Paths are those inside the container.
    """
    assert engine.target == "tensorrt_llm", "no other target has an engine of trtllm-build"
    check_build(engine, facts, role=role, sm=sm, runtime=runtime)
    timing_cache = str(PurePosixPath(output_dir).parent / _timing_cache_name(sm))
    settings = (
        Setting("checkpoint_dir", checkpoint_dir),
        Setting("output_dir", output_dir),
        *_settings(engine, facts, role, sm),
        *_run(facts, options_for(engine, role), gpus, timing_cache),
    )
    argv = ("trtllm-build", *_arguments(settings))
    return BuildPlan(
        role=role,
        command=Command(purpose=f"build the {role}'s engine", argv=argv, container=container),
        derived=(*_derived(settings), *changed_by_builder(engine, facts, role)),
        expected=expected_build_config(engine, facts, role, settings),
        world_size=facts.world_size,
        output_dir=output_dir,
        timing_cache=timing_cache,
        sm=sm,
        engine_bytes=_engine_bytes(facts),
    )


def _settings(engine: EngineSpec, facts: CheckpointFacts, role: Role, sm: int | None) -> Iterator[Setting]:
    """What decides the content of the engine."""
    options = options_for(engine, role)
    yield from _sizes(engine, options, role)
    yield from plugin_settings(facts, options, sm)
    yield from _logits(options)
    yield from _speculation(engine, role)
    if role == "target":
        yield from _lora(engine)
    if options.weight_streaming:
        yield Setting("weight_streaming", None)


def _derived(settings: tuple[Setting, ...]) -> Iterator[Derived]:
    for setting in settings:
        if setting.reason:
            yield Derived(flag=setting.flag, value=setting.text, reason=setting.reason)


def _timing_cache_name(sm: int | None) -> str:
    """A cache holds timings of one kind of GPU; it lies beside the artifact, so that the next build finds it."""
    return "timing.cache" if sm is None else f"timing-sm{sm}.cache"


def _sizes(engine: EngineSpec, options: TrtllmBuildSpec, role: Role) -> Iterator[Setting]:
    yield Setting("max_batch_size", engine.max_batch_size)
    yield Setting("max_input_len", engine.max_input_len)
    yield Setting("max_seq_len", engine.max_seq_len)
    yield Setting("max_beam_width", engine.max_beam_width)
    tokens, reason = _max_num_tokens(engine, options)
    yield Setting("max_num_tokens", tokens, reason)
    if options.opt_num_tokens is not None:
        yield Setting("opt_num_tokens", options.opt_num_tokens)
    elif not options.multiple_profiles:
        opt = min(engine.max_batch_size * engine.max_beam_width, tokens)
        yield Setting("opt_num_tokens", opt, "one token for each beam of a full batch: a step of generation")
    rows = options.max_prompt_embedding_table_size if role == "target" else 0
    yield Setting("max_prompt_embedding_table_size", rows)


def _max_num_tokens(engine: EngineSpec, options: TrtllmBuildSpec) -> tuple[int, str]:
    """As `check_max_num_tokens` leaves it, and why it is not the spec's."""
    asked, tokens = engine.max_num_tokens, iteration_tokens(engine, options)
    if tokens == asked:
        return asked, ""
    if tokens < asked:
        return tokens, f"engine.max_num_tokens is {asked}, max_batch_size x max_seq_len is all that can be there"
    return tokens, f"engine.max_num_tokens is {asked}, at least a block of the KV cache is computed at once"


def _logits(options: TrtllmBuildSpec) -> Iterator[Setting]:
    yield Setting("logits_dtype", options.logits_dtype)
    if options.gather_context_logits:
        yield Setting("gather_context_logits", None)


def _speculation(engine: EngineSpec, role: Role) -> Iterator[Setting]:
    if role == "draft":
        yield Setting("max_draft_len", 0, "a draft engine proposes tokens, it verifies none")
    elif engine.draft is not None:
        yield Setting("speculative_decoding_mode", "draft_tokens_external", "engine.draft is given")
        yield Setting("max_draft_len", engine.draft.max_draft_len)
    elif engine.speculation is not None:
        yield Setting("speculative_decoding_mode", _MODES[engine.speculation.mode])
        yield Setting("max_draft_len", engine.speculation.max_draft_len)
    else:
        yield Setting("max_draft_len", 0)


def _lora(engine: EngineSpec) -> Iterator[Setting]:
    lora = engine.lora
    if lora is None:
        return
    yield Setting("lora_plugin", "auto", "engine.lora is given; auto is the model's own type")
    yield Setting("lora_target_modules", lora.target_modules)
    yield Setting("max_lora_rank", lora.max_lora_rank)
    yield Setting("lora_ckpt_source", lora.lora_ckpt_source)
    if lora.lora_dirs:
        yield Setting("lora_dir", lora.lora_dirs)


def _run(facts: CheckpointFacts, options: TrtllmBuildSpec, gpus: int | None, timing_cache: str) -> Iterator[Setting]:
    yield _workers(facts, options, gpus)
    beside = "beside the engine, for the next build on this kind of GPU"
    yield Setting("input_timing_cache", timing_cache, beside)
    yield Setting("output_timing_cache", timing_cache, beside)
    yield Setting("log_level", "info")


def _workers(facts: CheckpointFacts, options: TrtllmBuildSpec, gpus: int | None) -> Setting:
    ranks = facts.world_size
    workers = min(options.workers or ranks, ranks, gpus or ranks)
    if options.workers == workers:
        return Setting("workers", workers)
    if gpus is None:
        return Setting(
            "workers", workers, f"one for each of {ranks} ranks; the builder takes no more than it sees GPUs"
        )
    return Setting("workers", workers, f"{ranks} ranks on {gpus} GPUs, one worker a GPU")


def _engine_bytes(facts: CheckpointFacts) -> int | None:
    """An engine holds the checkpoint's weights, less an embedding that is shared with lm_head."""
    if facts.checkpoint_bytes is None:
        return None
    # W8A16 checkpoints hold floats, which the builder quantizes.
    return facts.checkpoint_bytes * 9 // (20 if facts.quant_algo == "W8A16" else 10)


def _arguments(settings: tuple[Setting, ...]) -> Iterator[str]:
    for setting in settings:
        yield f"--{setting.flag}"
        yield from setting.words
