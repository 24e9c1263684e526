"""The smallest model on which a guide can be tried: one layer, the engine's vocabulary, arbitrary weights.

It ends a text only where nothing else is allowed, so that a trial goes as far into the guide as it may.

Imports OpenVINO: import this module only where it is built. The pipeline compiles a grammar in the step that admits
its request, and only a pipeline with a model makes steps.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op.util import Variable, VariableInfo

_HEAD_SIZE = 32
_NEVER = -1e4


def write_trial_model(directory: Path, *, vocab_size: int, eos_id: int) -> None:
    """Write what the pipeline opens into the existing `directory`, except for a tokenizer."""
    ov.save_model(_model(vocab_size, eos_id), directory / "openvino_model.xml")
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": vocab_size}))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": eos_id}))


def _model(vocab_size: int, eos_id: int) -> ov.Model:
    names = {"input_ids": np.int64, "attention_mask": np.int64, "position_ids": np.int64}
    inputs = {name: _parameter(name, [-1, -1], dtype) for name, dtype in names.items()}
    inputs["beam_idx"] = _parameter("beam_idx", [-1], np.int32)
    weights = np.random.default_rng(0).standard_normal((vocab_size, _HEAD_SIZE)).astype(np.float32)
    embedding = ops.constant(weights)
    tokens = ops.unsqueeze(ops.gather(embedding, inputs["input_ids"], _index(0)), _index(1))  # [batch, 1 head, …]
    batch = ops.gather(ops.shape_of(inputs["input_ids"]), _shape(0), _index(0))
    turned = ops.multiply(tokens, _cosines(inputs["position_ids"]))
    writes: list[Any] = []
    keys, values = (
        _with_cache(kind, new, batch, inputs["beam_idx"], writes) for kind, new in (("key", turned), ("value", tokens))
    )
    mask = ops.convert(ops.unsqueeze(inputs["attention_mask"], _shape(1, 2)), "boolean")
    attended = ops.squeeze(ops.scaled_dot_product_attention(turned, keys, values, mask), _index(1))
    unlikely = np.zeros(vocab_size, np.float32)
    unlikely[eos_id] = _NEVER
    logits = ops.add(ops.matmul(attended, embedding, transpose_a=False, transpose_b=True), unlikely)
    logits.output(0).set_names({"logits"})
    return ov.Model([ops.result(logits, name="logits")], writes, list(inputs.values()), "trial")


def _cosines(position_ids: Any) -> Any:
    """[batch, 1, tokens, 1]; the pipeline drops an input that nothing reads."""
    return ops.unsqueeze(ops.unsqueeze(ops.cos(ops.convert(position_ids, "f32")), _index(1)), _index(-1))


def _with_cache(kind: str, new: Any, batch: Any, beam_idx: Any, writes: list[Any]) -> Any:
    info = VariableInfo()
    info.data_shape = ov.PartialShape([-1, 1, -1, _HEAD_SIZE])
    info.data_type = ov.Type.f32
    info.variable_id = f"past_key_values.0.{kind}"
    variable = Variable(info)
    nothing = ops.broadcast(np.float32(0), ops.concat([batch, _shape(1, 0, _HEAD_SIZE)], 0))
    everything = ops.concat([ops.gather(ops.read_value(nothing, variable), beam_idx, _index(0)), new], -2)
    writes.append(ops.assign(everything, variable))
    return everything


def _parameter(name: str, shape: list[int], dtype: type[np.generic]) -> Any:
    parameter = ops.parameter(shape, dtype, name=name)
    parameter.output(0).set_names({name})
    return parameter


def _shape(*sizes: int) -> Any:
    return ops.constant(np.array(sizes, dtype=np.int64))


def _index(value: int) -> Any:
    return ops.constant(np.int64(value))
