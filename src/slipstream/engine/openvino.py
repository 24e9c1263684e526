"""Target `openvino`: an engine directory for OpenVINO GenAI's ContinuousBatchingPipeline, token ids in and out.

openvino_model.xml, .bin     the graph and its weights
config.json                  what the pipeline reads of a Hugging Face config
generation_config.json       end, begin and padding ids, where known
openvino_tokenizer.xml …     the tokenizer and detokenizer, where the model directory has one
engine.json                  `EngineFacts`, for whoever runs the engine

Every format of checkpoint keeps its weights to the bit, but only its weights: where TensorRT-LLM would round
activations and the KV cache to INT8, FP8 or FP4 with the checkpoint's scales, this engine computes with what
`execution` says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.engine.architecture import read_architecture
from slipstream.engine.checkpoint import Checkpoint
from slipstream.engine.properties import Properties, pipeline_properties
from slipstream.engine.source_model import SourceModel, read_source_model
from slipstream.engine.tokenizer import convert_tokenizer, has_tokenizer
from slipstream.errors import SlipstreamError, SpecError
from slipstream.progress import Reporter
from slipstream.trtllm_checkpoint.config import Architecture
from slipstream.trtllm_checkpoint.linear import Linear

if TYPE_CHECKING:
    import openvino

MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What was built."""

    architecture: str
    quant_algo: str | None
    num_layers: int
    context_tokens: int
    weight_bytes: int
    has_tokenizer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """engine.json: all that the backend needs to know of an engine."""

    target: str
    architecture: str
    vocab_size: int  # valid ids are below it
    not_finite_id: int  # comes out where logits hold NaN or infinity
    context_tokens: int  # prompt and output together; the pipeline accepts more, so the backend must not
    num_layers: int
    num_kv_heads: int
    head_size: int
    quant_algo: str | None
    weight_bytes: int
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    pad_token_id: int | None
    has_tokenizer: bool  # without it, stop strings and structured output must be refused
    execution: dict[str, Properties]  # pipeline properties by `runtime.execution`


def build_engine(
    checkpoint: Path,
    out: Path,
    *,
    max_seq_len: int,
    report: Reporter,
    tokenizer_dir: Path | None = None,
    weight_value: Callable[[Linear], Any] | None = None,
) -> EngineReport:
    """Build the engine of a TensorRT-LLM checkpoint directory into `out`, an existing directory.

    `tokenizer_dir` is the Hugging Face directory that the checkpoint was made of; `weight_value` writes weights into
    the graph in another form than `weights.weight_value`, for comparisons.
    Raises SlipstreamError for a damaged checkpoint, and for a model that this target cannot build.
    """
    source = SourceModel() if tokenizer_dir is None else read_source_model(tokenizer_dir)
    architecture = _without_padding(read_architecture(checkpoint / "config.json"), source)
    _require_context(architecture, source, max_seq_len)
    weight_bytes = _build_model(Checkpoint(checkpoint, architecture), architecture, out, report, weight_value)
    with_tokenizer = tokenizer_dir is not None and has_tokenizer(tokenizer_dir)
    if tokenizer_dir is not None and with_tokenizer:
        report("converting the tokenizer")
        convert_tokenizer(tokenizer_dir, out)
    facts = _facts(architecture, source, max_seq_len, weight_bytes, with_tokenizer=with_tokenizer)
    _write_json(out / "engine.json", asdict(facts))
    _write_json(out / "config.json", _pipeline_config(architecture, source))
    _write_json(out / "generation_config.json", _generation_config(source))
    return EngineReport(
        architecture=architecture.name,
        quant_algo=architecture.quantization.algo,
        num_layers=architecture.num_layers,
        context_tokens=max_seq_len,
        weight_bytes=weight_bytes,
        has_tokenizer=with_tokenizer,
    )


def _without_padding(architecture: Architecture, source: SourceModel) -> Architecture:
    """AWQ's export counts the rows that pad the vocabulary to a multiple of 64; their logits are 0, and could win."""
    if source.vocab_size is None or source.vocab_size >= architecture.vocab_size:
        return architecture
    return replace(architecture, vocab_size=source.vocab_size)


def _require_context(architecture: Architecture, source: SourceModel, max_seq_len: int) -> None:
    limit = architecture.max_position_embeddings
    if max_seq_len > limit:
        raise SpecError(
            f"engine.max_seq_len is {max_seq_len}, the model's context is {limit}",
            mend=f"set engine.max_seq_len to {limit} or less",
        )
    # ModelOpt's export loses the window: the checkpoint alone does not always tell.
    window = architecture.sliding_window_tokens or source.sliding_window_tokens
    if window is not None and window < max_seq_len:
        raise SpecError(
            f"engine.max_seq_len is {max_seq_len}, but {architecture.name} attends to a sliding window of {window} "
            "tokens, which the OpenVINO graph does not",
            mend=f"set engine.max_seq_len to {window} or less, where the window makes no difference",
        )


def _build_model(
    checkpoint: Checkpoint,
    architecture: Architecture,
    out: Path,
    report: Reporter,
    weight_value: Callable[[Linear], Any] | None,
) -> int:
    from slipstream.engine import weights
    from slipstream.engine.graph import build_graph

    def on_layer(layer: int) -> None:
        report(f"layer {layer + 1} of {architecture.num_layers}", (layer + 1) / architecture.num_layers)

    model = build_graph(architecture, checkpoint, on_layer, weight_value or weights.weight_value)
    checkpoint.require_all_read()
    report("writing the engine")
    return _save(model, out / "openvino_model.xml")


def _save(model: openvino.Model, path: Path) -> int:
    """Write the model; the size of its weights in bytes."""
    import openvino

    try:
        # The weights have the types that they should have: no further compression.
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise SlipstreamError(
            f"{path}: cannot be written ({error})", mend="check that the disk has room and the directory is writable"
        ) from error
    return path.with_suffix(".bin").stat().st_size


def _facts(
    architecture: Architecture, source: SourceModel, max_seq_len: int, weight_bytes: int, *, with_tokenizer: bool
) -> EngineFacts:
    return EngineFacts(
        target="openvino",
        architecture=architecture.name,
        vocab_size=architecture.vocab_size,
        not_finite_id=architecture.vocab_size,
        context_tokens=max_seq_len,
        num_layers=architecture.num_layers,
        num_kv_heads=architecture.num_kv_heads,
        head_size=architecture.head_size,
        quant_algo=architecture.quantization.algo,
        weight_bytes=weight_bytes,
        eos_token_ids=source.eos_token_ids,
        bos_token_id=source.bos_token_id,
        pad_token_id=source.pad_token_id,
        has_tokenizer=with_tokenizer,
        execution={mode: pipeline_properties(mode) for mode in ("performance", "accuracy")},
    )


def _pipeline_config(architecture: Architecture, source: SourceModel) -> dict[str, object]:
    return {
        "architectures": [architecture.name],
        "model_type": MODEL_TYPES[architecture.name],
        "vocab_size": architecture.vocab_size,
        "max_position_embeddings": architecture.max_position_embeddings,
        **_generation_config(source),
    }


def _generation_config(source: SourceModel) -> dict[str, object]:
    ids = {"bos_token_id": source.bos_token_id, "pad_token_id": source.pad_token_id}
    known: dict[str, object] = {name: value for name, value in ids.items() if value is not None}
    if source.eos_token_ids:
        known["eos_token_id"] = list(source.eos_token_ids)
    return known


def _write_json(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
