"""A checkpoint is whole again whatever its parallelism, and a damaged one gives one clear error."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slipstream.engine.architecture import read_architecture
from slipstream.engine.checkpoint import Checkpoint
from slipstream.errors import SlipstreamError
from slipstream.trtllm_checkpoint.shard import as_float32
from tests.fakes.checkpoints import (
    TinyModel,
    checkpoint_config,
    hugging_face_weights,
    write_checkpoint,
    write_config,
    write_safetensors,
)

MODEL = TinyModel(has_qkv_bias=True, architecture="Qwen2ForCausalLM")


def read(directory: Path) -> Checkpoint:
    return Checkpoint(directory, read_architecture(directory / "config.json"))


@pytest.mark.parametrize(("tp_size", "pp_size"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)])
def test_shards_merge_to_the_weights_they_were_cut_from(tmp_path: Path, tp_size: int, pp_size: int) -> None:
    checkpoint = read(write_checkpoint(tmp_path, MODEL, tp_size=tp_size, pp_size=pp_size))
    weights = hugging_face_weights(MODEL)
    qkv = [weights[f"model.layers.1.self_attn.{name}_proj.weight"] for name in "qkv"]
    bias = [weights[f"model.layers.1.self_attn.{name}_proj.bias"] for name in "qkv"]
    np.testing.assert_array_equal(checkpoint.qkv(1).weight(), np.concatenate(qkv))
    np.testing.assert_array_equal(checkpoint.qkv_bias(1), np.concatenate(bias))
    np.testing.assert_array_equal(
        checkpoint.column_parallel(1, "mlp.fc", 96).weight(), weights["model.layers.1.mlp.gate_proj.weight"]
    )
    np.testing.assert_array_equal(
        checkpoint.row_parallel(0, "mlp.proj", 96).weight(), weights["model.layers.0.mlp.down_proj.weight"]
    )
    np.testing.assert_array_equal(checkpoint.final_norm(), weights["model.norm.weight"])


@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_padding_rows_of_the_vocabulary_are_cut(tmp_path: Path, tp_size: int) -> None:
    checkpoint = read(write_checkpoint(tmp_path, MODEL, tp_size=tp_size))
    weights = hugging_face_weights(MODEL)
    lm_head = checkpoint.lm_head()
    assert lm_head is not None
    np.testing.assert_array_equal(lm_head, weights["lm_head.weight"])
    np.testing.assert_array_equal(checkpoint.embedding(), weights["model.embed_tokens.weight"])


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    model = replace(MODEL, dtype="bfloat16")
    checkpoint = read(write_checkpoint(tmp_path, model))
    expected = hugging_face_weights(model)["model.embed_tokens.weight"]
    np.testing.assert_array_equal(as_float32(checkpoint.embedding()), expected)


def test_embedding_that_every_rank_holds_whole(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, MODEL, tp_size=2)
    write_config(tmp_path, {**checkpoint_config(MODEL, tp_size=2), "use_parallel_embedding": False})
    weights = hugging_face_weights(MODEL)
    for rank in range(2):
        tensors = {"transformer.vocab_embedding.weight": weights["model.embed_tokens.weight"].astype(np.float16)}
        write_safetensors(tmp_path / f"rank{rank}.safetensors", tensors)
    np.testing.assert_array_equal(read(tmp_path).embedding(), weights["model.embed_tokens.weight"])


def test_missing_tensor_is_named_with_its_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, replace(MODEL, has_qkv_bias=False))
    with pytest.raises(SlipstreamError, match=r"rank0\.safetensors: tensor transformer\.layers\.0\.x\.weight is miss"):
        read(tmp_path).norm(0, "x")


def test_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, MODEL)
    write_config(tmp_path, checkpoint_config(replace(MODEL, head_size=16)))
    with pytest.raises(SlipstreamError, match=r"attention\.qkv\.weight has shape \[256, 64\].* asks for \[128, 64\]"):
        read(tmp_path).qkv(0)


def test_vocabulary_smaller_than_the_tokenizers_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, MODEL)
    write_config(tmp_path, checkpoint_config(replace(MODEL, vocab_size=102)))
    with pytest.raises(SlipstreamError, match=r"vocab_embedding\.weight of all ranks has shape \[101, 64\]"):
        read(tmp_path).embedding()


def test_norm_that_differs_between_ranks_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, MODEL, tp_size=2)
    other = write_checkpoint(tmp_path / "other", MODEL, tp_size=2)
    tensors = {"transformer.ln_f.weight": np.zeros(64, np.float16)}
    write_safetensors(other / "rank1.safetensors", tensors)
    (other / "rank1.safetensors").rename(tmp_path / "rank1.safetensors")
    with pytest.raises(SlipstreamError, match=r"rank1\.safetensors: transformer\.ln_f\.weight differs"):
        read(tmp_path).final_norm()


def test_tensor_without_a_place_in_the_graph_is_refused(tmp_path: Path) -> None:
    checkpoint = read(write_checkpoint(tmp_path, MODEL))
    checkpoint.embedding()
    with pytest.raises(SlipstreamError, match=r"tensors have no place in Qwen2ForCausalLM, the first is lm_head\.weig"):
        checkpoint.require_all_read()


def test_missing_rank_file_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, MODEL, tp_size=2)
    (tmp_path / "rank1.safetensors").unlink()
    with pytest.raises(SlipstreamError, match=r"rank1\.safetensors: cannot be read \(No such file"):
        read(tmp_path)


def truncated(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def empty(whole: bytes) -> bytes:
    return b""


def zeros(whole: bytes) -> bytes:
    return bytes(len(whole))


def huge_header(whole: bytes) -> bytes:
    return struct.pack("<Q", 2**60) + whole[8:]


def broken_json(whole: bytes) -> bytes:
    return whole[:8] + b"?" + whole[9:]


def not_utf8(whole: bytes) -> bytes:
    return whole[:9] + b"\xff\xff" + whole[11:]


def shorter_tensor(whole: bytes) -> bytes:
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    header["transformer.ln_f.weight"]["shape"] = [63]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + size :]


def entry_without_offsets(whole: bytes) -> bytes:
    text = json.dumps({"transformer.ln_f.weight": {"dtype": "F16", "shape": [64]}}).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "damage",
    [truncated, empty, zeros, huge_header, broken_json, not_utf8, shorter_tensor, entry_without_offsets],
    ids=lambda damage: damage.__name__,
)
def test_damaged_safetensors_give_one_clear_error(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = write_checkpoint(tmp_path, MODEL) / "rank0.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SlipstreamError, match=r"rank0\.safetensors: is damaged") as caught:
        read(tmp_path)
    assert "quantize the model again" in caught.value.mend


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, MODEL) / "rank0.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F16"', b'"I16"'))
    with pytest.raises(SlipstreamError, match="is I16, a checkpoint holds F32, F16, BF16"):
        read(tmp_path).embedding()
