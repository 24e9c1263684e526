"""What a model reads from its own config.pbtxt when Triton loads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slipstream.backend.speculation import WISHES, Speculation, Wish
from slipstream.errors import SlipstreamError

_TRUE = frozenset({"true", "True", "TRUE", "1"})
_FALSE = frozenset({"false", "False", "FALSE", "0"})
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model's configuration as Triton hands it to `initialize`."""

    name: str
    decoupled: bool
    parameters: dict[str, str]

    @classmethod
    def of(cls, model_config: str) -> ModelConfig:
        """Read the JSON text in `args["model_config"]`."""
        config: dict[str, Any] = json.loads(model_config)
        return cls(
            name=config["name"],
            decoupled=bool(config.get("model_transaction_policy", {}).get("decoupled", False)),
            parameters={key: value["string_value"] for key, value in config.get("parameters", {}).items()},
        )

    def text(self, key: str) -> str:
        """A parameter that must be there."""
        value = self.parameters.get(key, "")
        if not value or value.startswith("${"):
            raise SlipstreamError(
                f"{self.name}/config.pbtxt: parameter {key} is missing", mend="render the model repository again"
            )
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """A boolean as TensorRT-LLM's backend reads it: anything but its eight spellings counts as not set."""
        value = self.parameters.get(key, "")
        return value in _TRUE or (default and value not in _FALSE)

    def loose_flag(self, key: str, *, default: bool) -> bool:
        """A boolean as TensorRT-LLM's Python models read it: also yes, no, y, n, t, f, in any case."""
        value = self.parameters.get(key, "").lower()
        if value in {"true", "1", "t", "y", "yes"}:
            return True
        if value in {"false", "0", "f", "n", "no"}:
            return False
        return default

    def whole(self, key: str, *, default: int) -> int:
        """A whole number; an unfilled placeholder counts as not set."""
        value = self.parameters.get(key, "")
        if not value or value.startswith("${"):
            return default
        try:
            return int(value)
        except ValueError as error:
            raise SlipstreamError(
                f"{self.name}/config.pbtxt: parameter {key} is {value!r}, not a whole number",
                mend="render the model repository again",
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """How the engine directory is opened: what the step loop's process needs to know."""

    engine_dir: Path
    execution: Literal["performance", "accuracy"]
    kv_cache_gib: int
    max_batch_size: int
    max_num_tokens: int
    enable_kv_cache_reuse: bool
    enable_chunked_context: bool
    kv_cache_tokens: int | None = None  # none: as many as `kv_cache_gib` holds
    prefill_chunk_tokens: int = 256
    reserves_output: bool = True
    speculation: Speculation | None = None

    @property
    def tokens_in_a_step(self) -> int:
        """Tokens of prompts and outputs in one step; a long prompt is read in pieces beside the streams that run."""
        if not self.enable_chunked_context:
            return self.max_num_tokens
        return min(self.max_num_tokens, max(self.prefill_chunk_tokens, 2 * self.max_batch_size))

    @classmethod
    def of(cls, config: ModelConfig) -> PipelineSettings:
        return cls(
            engine_dir=Path(config.text("gpt_model_path")),
            execution=_execution(config),
            kv_cache_gib=config.whole("slipstream_kv_cache_gib", default=1),
            max_batch_size=config.whole("slipstream_max_batch_size", default=32),
            max_num_tokens=config.whole("slipstream_max_num_tokens", default=2048),
            enable_kv_cache_reuse=config.flag("enable_kv_cache_reuse", default=True),
            enable_chunked_context=config.flag("enable_chunked_context", default=True),
            kv_cache_tokens=config.whole("max_tokens_in_paged_kv_cache", default=0) or None,
            prefill_chunk_tokens=config.whole("slipstream_prefill_chunk_tokens", default=256),
            reserves_output=config.parameters.get("batch_scheduler_policy") != "max_utilization",
            speculation=_speculation(config),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request, and all requests together, may ask of the engine.

    `max_batch_size` and `max_queue_size` count generations, as the gauges do: each row of a batch and each of
    `num_return_sequences` is one, a beam search is one however wide it is. KV blocks are counted as they are used, so
    each beam has its own from where it parts from the others.
    """

    max_input_len: int
    max_seq_len: int
    max_batch_size: int
    max_queue_size: int  # 0: no limit
    vocab_size: int
    kv_blocks: int = _INT32_MAX  # of the KV cache
    reserves_output: bool = True
    max_draft_len: int | None = None  # of a deployment with a draft model; None: no limit
    max_beam_width: int = 1

    @classmethod
    def of(cls, config: ModelConfig, *, vocab_size: int, settings: PipelineSettings, kv_blocks: int) -> Limits:
        max_seq_len = config.whole("slipstream_max_seq_len", default=2048)
        max_input_len = config.whole("slipstream_max_input_len", default=max_seq_len - 1)
        return cls(
            # A prompt that is not split must fit into one step.
            max_input_len=max_input_len
            if settings.enable_chunked_context
            else min(max_input_len, settings.max_num_tokens),
            max_seq_len=max_seq_len,
            max_batch_size=config.whole("slipstream_max_batch_size", default=32),
            max_queue_size=config.whole("slipstream_max_queue_size", default=0),
            vocab_size=vocab_size,
            max_draft_len=config.whole("slipstream_max_draft_len", default=0) or None,
            kv_blocks=kv_blocks,
            reserves_output=settings.reserves_output,
            max_beam_width=config.whole("max_beam_width", default=1),
        )


def speculation_policy(config: ModelConfig) -> Wish | None:
    """What a request gets that does not say; none where the engine cannot speculate."""
    if _speculation(config) is None:
        return None
    return WISHES.get(config.parameters.get("slipstream_speculation", ""), "auto")


def _speculation(config: ModelConfig) -> Speculation | None:
    mode = config.parameters.get("slipstream_speculation_mode", "")
    if mode not in {"ngram", "draft_target"}:
        return None
    return Speculation(
        max_draft_len=config.whole("slipstream_speculation_draft_len", default=3),
        draft_engine_dir=Path(config.text("slipstream_speculation_engine_dir")) if mode == "draft_target" else None,
    )


def _execution(config: ModelConfig) -> Literal["performance", "accuracy"]:
    value = config.parameters.get("slipstream_execution", "performance")
    if value == "performance":
        return "performance"
    if value == "accuracy":
        return "accuracy"
    raise SlipstreamError(
        f"{config.name}/config.pbtxt: slipstream_execution is {value!r}",
        mend="use performance or accuracy, and render again",
    )
