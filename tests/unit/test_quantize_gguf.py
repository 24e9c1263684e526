"""A user's GGUF file becomes a Hugging Face checkpoint, or is refused with what is missing from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from slipstream.errors import SlipstreamError
from slipstream.progress import silent
from slipstream.quantize.identity import source_identity
from slipstream.quantize.model import is_gguf, prepare_model
from slipstream.text.tokenizer import Tokenizer
from tests.unit.small_tokenizers import END, SCRIPTS, byte_level

HIDDEN, HEADS, KV_HEADS, LAYERS = 32, 4, 2, 2
VOCAB = byte_level().vocab_size


def a_gguf(
    path: Path, *, pre: str = "gpt-2", tied: bool = False, hidden: int = HIDDEN, layers: int = LAYERS, **changes: Any
) -> Path:
    """A small Llama; `changes` replace keys of the file (a dot is written as two underscores).

    `hidden` and `layers` are only said to be the model's, its weights stay small.
    """
    keys = {name.replace("__", "."): value for name, value in changes.items()}
    writer = gguf.GGUFWriter(path, keys.pop("general.architecture", "llama"))
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(2 * hidden)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5e5)
    _add_tokenizer(writer, keys.pop("tokenizer.ggml.model", "gpt2"), pre)
    for tensor in keys.pop("tensors", ()):
        writer.add_tensor(tensor, np.ones(8, np.float32))
    for key, value in keys.items():
        writer.add_uint32(key, value) if isinstance(value, int) else writer.add_string(key, value)
    _add_weights(writer, tied=tied)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, kind: str, pre: str) -> None:
    model = json.loads(byte_level().fast.to_str())["model"]
    vocab = byte_level().fast.get_vocab(with_added_tokens=True)
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    tokens = sorted(vocab, key=lambda token: vocab[token])
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == END else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(vocab[END])
    writer.add_eos_token_id(vocab[END])


def _add_weights(writer: gguf.GGUFWriter, *, tied: bool) -> None:
    numbers = np.random.default_rng(0)
    shapes = {"token_embd": (VOCAB, HIDDEN), "output_norm": (HIDDEN,)} | ({} if tied else {"output": (VOCAB, HIDDEN)})
    for layer in range(LAYERS):
        kv = KV_HEADS * HIDDEN // HEADS
        parts = {"attn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN), "attn_k": (kv, HIDDEN), "attn_v": (kv, HIDDEN)}
        parts |= {"attn_output": (HIDDEN, HIDDEN), "ffn_norm": (HIDDEN,), "ffn_gate": (64, HIDDEN)}
        parts |= {"ffn_up": (64, HIDDEN), "ffn_down": (HIDDEN, 64)}
        shapes |= {f"blk.{layer}.{part}": shape for part, shape in parts.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", numbers.normal(size=shape).astype(np.float32))


def prepared(source: Path, out: Path) -> Path:
    out.mkdir()
    prepare_model(str(source), "float32", out, silent)
    return out


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_becomes_a_checkpoint(tmp_path: Path, tied: bool) -> None:
    out = prepared(a_gguf(tmp_path / "m.gguf", tied=tied), tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert (config["rope_theta"], config["rms_norm_eps"], config["head_dim"]) == (5e5, 1e-5, 8)
    assert (config["tie_word_embeddings"], config["num_key_value_heads"]) == (tied, KV_HEADS)
    weights = load_file(out / "model.safetensors")
    assert ("lm_head.weight" in weights) is not tied
    assert len(weights) == 2 + 9 * LAYERS + (not tied)


def test_rows_of_q_are_put_back_into_order(tmp_path: Path) -> None:
    source = a_gguf(tmp_path / "m.gguf")
    stored = next(tensor for tensor in gguf.GGUFReader(source).tensors if tensor.name == "blk.1.attn_q.weight").data
    found = load_file(prepared(source, tmp_path / "out") / "model.safetensors")[
        "model.layers.1.self_attn.q_proj.weight"
    ]
    head = stored[:8]  # llama.cpp writes row pairs (0, 4), (1, 5), …
    assert np.array_equal(found[:8], head[[0, 2, 4, 6, 1, 3, 5, 7]])


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_the_tokenizer_gives_back_every_text(tmp_path: Path, pre: str) -> None:
    tokenizer = Tokenizer.load(prepared(a_gguf(tmp_path / "m.gguf", pre=pre), tmp_path / "out"))
    for text in SCRIPTS:
        if pre == "qwen2" and "\u0301" in text:
            continue  # NFC composes it, as Qwen's own tokenizer does
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert tokenizer.encode(END, add_special_tokens=False) == [tokenizer.eos_ids[0]]
    begins_with_bos = tokenizer.encode("a")[0] == tokenizer.bos_id
    assert begins_with_bos == (pre == "llama-bpe")


def test_digits_are_cut_as_the_model_learned(tmp_path: Path) -> None:
    cuts = {}
    for pre in ("llama-bpe", "qwen2", "smollm"):
        fast = Tokenizer.load(prepared(a_gguf(tmp_path / f"{pre}.gguf", pre=pre), tmp_path / pre)).fast
        cuts[pre] = [piece for piece, _ in fast.pre_tokenizer.pre_tokenize_str("12345")]
    assert cuts == {"llama-bpe": ["123", "45"], "qwen2": list("12345"), "smollm": list("12345")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general__architecture": "qwen2"}, "architecture is 'qwen2'"),
        ({"tokenizer__ggml__model": "llama"}, "SentencePiece"),
        ({"pre": "deepseek-llm"}, "pre-tokenizer is 'deepseek-llm', known are smollm, gpt-2, llama-bpe, qwen2"),
        ({"tensors": ["rope_freqs.weight"]}, "rotary frequencies are stretched"),
        ({"llama__rope__scaling__type": "yarn"}, "rotary frequencies are stretched"),
        ({"llama__expert_count": 8}, "the model has experts"),
        ({"tensors": ["blk.0.attn_q.bias"]}, r"1 tensors have no place .* blk\.0\.attn_q\.bias"),
    ],
)
def test_what_cannot_be_rebuilt_exactly_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    source = a_gguf(tmp_path / "m.gguf", **changes)
    with pytest.raises(SlipstreamError, match=message) as caught:
        prepared(source, tmp_path / "out")
    assert "original Hugging Face directory" in caught.value.mend


def test_a_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + b"\0" * 9)
    with pytest.raises(SlipstreamError, match="not a whole GGUF file"):
        prepared(tmp_path / "m.gguf", tmp_path / "out")
    with pytest.raises(SlipstreamError, match="there is no file"):
        prepared(tmp_path / "nowhere.gguf", tmp_path / "out2")


def test_another_file_is_another_model(tmp_path: Path) -> None:
    path = a_gguf(tmp_path / "m.gguf")
    before = source_identity(str(path))
    assert is_gguf(str(path))
    path.write_bytes(path.read_bytes() + b"\0")
    assert source_identity(str(path)) != before
    assert source_identity(str(tmp_path / "nowhere.gguf")) is None
