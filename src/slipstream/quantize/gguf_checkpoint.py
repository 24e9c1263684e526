"""A GGUF file of the Llama architecture, dequantized to a Hugging Face checkpoint.

transformers can read such a file too, but rebuilds a wrong tokenizer from it (it adds a BOS and falls back to bytes)
and needs torch. What is written here of SmolLM2-Instruct equals its own files; the weights equal transformers' bit for
bit. What a checkpoint cannot be rebuilt from exactly is refused: SentencePiece tokenizers, pre-tokenizers that are not
known here, stretched rotary frequencies, experts.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import SlipstreamError
from slipstream.progress import Reporter
from slipstream.quantize.gguf_metadata import Metadata
from slipstream.quantize.gguf_tokenizer import check_tokenizer, rebuild_tokenizer, tokenizer_config
from slipstream.quantize.safetensors_files import Dtype, write_weights

if TYPE_CHECKING:
    from gguf import GGUFReader

ORIGINAL = "give the model's original Hugging Face directory"
TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_hf_checkpoint(gguf_path: Path, dtype: Dtype, out: Path, report: Reporter) -> None:
    """Write the model in `gguf_path` into `out`: config, weights in `dtype`, tokenizer and chat template."""
    report(f"reading {gguf_path.name}")
    metadata = _supported(gguf_path)
    reader = metadata.reader
    _write_json(out / "config.json", _config(metadata, dtype))
    _write_json(out / "generation_config.json", _special_ids(metadata))
    _write_json(out / "tokenizer_config.json", tokenizer_config(metadata))
    rebuild_tokenizer(metadata).save(str(out / "tokenizer.json"))
    write_weights(out / "model.safetensors", _weights(reader, metadata, report), dtype)


def read_hf_config(gguf_path: Path, dtype: Dtype) -> dict[str, Any]:
    """The config.json that `write_hf_checkpoint` would write, from the metadata alone; refuses what it would."""
    return _config(_supported(gguf_path), dtype)


def _supported(gguf_path: Path) -> Metadata:
    changed = gguf_path.stat().st_mtime_ns if gguf_path.is_file() else 0
    return _checked(gguf_path, changed)


@functools.lru_cache(
    maxsize=1
)  # reading a vocabulary takes seconds: refused early and then dequantized, it is read once
def _checked(gguf_path: Path, _changed: int) -> Metadata:
    metadata = Metadata.read(gguf_path)
    _check_supported(metadata)
    check_tokenizer(metadata)
    return metadata


def _check_supported(metadata: Metadata) -> None:
    path = metadata.path
    architecture = metadata.text("general.architecture")
    if architecture != "llama":
        raise SlipstreamError(f"{path}: architecture is {architecture!r}, only 'llama' is dequantized", mend=ORIGINAL)
    if metadata.optional("llama.expert_count"):
        raise SlipstreamError(f"{path}: the model has experts, only dense ones are dequantized", mend=ORIGINAL)
    names = [tensor.name for tensor in metadata.reader.tensors]
    if "rope_freqs.weight" in names or metadata.optional("llama.rope.scaling.type") not in (None, "none"):
        raise SlipstreamError(
            f"{path}: the rotary frequencies are stretched, and a GGUF does not tell by which rule", mend=ORIGINAL
        )
    unknown = [name for name in names if _hf_name(name) is None]
    if unknown:
        raise SlipstreamError(
            f"{path}: {len(unknown)} tensors have no place in a Llama checkpoint, first {unknown[0]}", mend=ORIGINAL
        )


def _config(metadata: Metadata, dtype: Dtype) -> dict[str, Any]:
    heads = metadata.integer("llama.attention.head_count")
    hidden = metadata.integer("llama.embedding_length")
    return _special_ids(metadata) | {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": int(metadata.optional("llama.attention.key_length") or hidden // heads),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": metadata.integer("llama.feed_forward_length"),
        "max_position_embeddings": metadata.integer("llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": metadata.integer("llama.block_count"),
        "num_key_value_heads": _kv_heads(metadata),
        "rms_norm_eps": metadata.number("llama.attention.layer_norm_rms_epsilon"),
        "rope_scaling": None,
        "rope_theta": metadata.number("llama.rope.freq_base", default=10_000.0),
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in metadata.reader.tensors),
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": len(metadata.value("tokenizer.ggml.tokens")),
    }


def _special_ids(metadata: Metadata) -> dict[str, Any]:
    """`bos_token_id`, `eos_token_id` and `pad_token_id`, as far as the file has them."""
    keys = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id"}
    found = {f"{name}_token_id": metadata.optional(f"tokenizer.ggml.{key}") for name, key in keys.items()}
    return {name: int(value) for name, value in found.items() if value is not None}


def _kv_heads(metadata: Metadata) -> int:
    return int(metadata.optional("llama.attention.head_count_kv") or metadata.integer("llama.attention.head_count"))


def _weights(reader: GGUFReader, metadata: Metadata, report: Reporter) -> dict[str, NDArray[np.float32]]:
    from gguf.quants import dequantize

    heads = {
        "attn_q": metadata.integer("llama.attention.head_count"),
        "attn_k": _kv_heads(metadata),
    }
    weights = {}
    for done, tensor in enumerate(reader.tensors):
        report("dequantizing the weights", done / len(reader.tensors))
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise SlipstreamError(
                f"{metadata.path}: {tensor.name} is {tensor.tensor_type.name}, which gguf does not dequantize",
                mend=ORIGINAL,
            ) from error
        part = tensor.name.split(".")[-2]
        name = _hf_name(tensor.name)
        assert name is not None, "names are checked before"
        weights[name] = _unpermuted(values, heads[part]) if part in heads else values
    return weights


def _hf_name(gguf_name: str) -> str | None:
    """`blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`; None for what Llama does not have."""
    if gguf_name in TOP_NAMES:
        return TOP_NAMES[gguf_name]
    parts = gguf_name.split(".")
    if len(parts) != 4 or parts[0] != "blk" or parts[2] not in LAYER_NAMES or parts[3] != "weight":
        return None
    return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.weight"


def _unpermuted(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo llama.cpp's order of q and k rows [heads x head_size, hidden]: it interleaves the two rotary halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
