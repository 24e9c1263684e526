"""What the engine's config.json will say, and where the builder makes something else of the command.

Source: `build` in tensorrt_llm/builder.py, TensorRT-LLM 1.2. Every way of speculating makes sequences longer by the
draft tokens, EAGLE by its layers too, and an iteration so large that all requests can verify at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipstream.engine.trtllm.facts import CheckpointFacts
from slipstream.engine.trtllm.options import iteration_tokens, options_for
from slipstream.engine.trtllm.plugins import ENABLE, Setting
from slipstream.engine.trtllm.rules import Role
from slipstream.spec.engine import EngineSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """A value that the spec did not give, or that the builder changes by itself."""

    flag: str  # of trtllm-build, without dashes
    value: str
    reason: str


def changed_by_builder(engine: EngineSpec, facts: CheckpointFacts, role: Role) -> tuple[Derived, ...]:
    """What the engine's config.json says otherwise than the command."""
    draft = _draft_len(engine, role)
    if not draft:
        return ()
    found = _grown(engine, facts, role)
    why = f"the builder adds max_draft_len, {draft}"
    if found.max_seq_len > engine.max_seq_len + draft:
        why += f", and EAGLE's layers, {facts.num_eagle_layers}"
    changed = [
        Derived(
            flag="max_seq_len",
            value=str(found.max_seq_len),
            reason=f"in the engine: {why}; a request still has {engine.max_seq_len} tokens",
        )
    ]
    if found.is_raised:
        changed.append(
            Derived(
                flag="max_num_tokens",
                value=str(found.max_num_tokens),
                reason=f"in the engine: a step verifies max_batch_size x (max_draft_len + 1), {engine.max_batch_size}"
                f" x {draft + 1}",
            )
        )
    return tuple(changed)


def expected_build_config(
    engine: EngineSpec, facts: CheckpointFacts, role: Role, settings: tuple[Setting, ...]
) -> Mapping[str, Any]:
    """What of `build_config` the engine must agree with; a plugin's type is left out: `auto` is resolved in it."""
    given = {setting.flag: setting.value for setting in settings}
    found = _grown(engine, facts, role)
    sizes = {
        name: given.get(name)
        for name in (
            "max_batch_size",
            "max_input_len",
            "max_beam_width",
            "opt_num_tokens",
            "max_prompt_embedding_table_size",
            "max_draft_len",
        )
    }
    plugins = (
        "remove_input_padding",
        "context_fmha",
        "use_paged_context_fmha",
        "use_fp8_context_fmha",
        "reduce_fusion",
        "user_buffer",
        "multiple_profiles",
    )
    return {
        **sizes,
        "max_seq_len": found.max_seq_len,
        "max_num_tokens": found.max_num_tokens,
        "kv_cache_type": "paged",
        "gather_context_logits": options_for(engine, role).gather_context_logits,
        "plugin_config": {
            **{name: given[name] == ENABLE for name in plugins},
            "tokens_per_block": given["tokens_per_block"],
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grown:
    """Sizes as the builder leaves them for speculation."""

    max_seq_len: int
    max_num_tokens: int
    is_raised: bool  # whether max_num_tokens is above the command's


def _grown(engine: EngineSpec, facts: CheckpointFacts, role: Role) -> _Grown:
    draft = _draft_len(engine, role)
    tokens = iteration_tokens(engine, options_for(engine, role))
    needed = engine.max_batch_size * (draft + 1) if draft else 0
    is_eagle = role == "target" and engine.speculation is not None and engine.speculation.mode == "eagle"
    layers = (facts.num_eagle_layers or 0) if is_eagle else 0
    return _Grown(
        max_seq_len=engine.max_seq_len + draft + layers,
        max_num_tokens=max(tokens, needed),
        is_raised=needed > tokens,
    )


def _draft_len(engine: EngineSpec, role: Role) -> int:
    if role == "draft":
        return 0
    speculation = engine.draft or engine.speculation
    return speculation.max_draft_len if speculation else 0
