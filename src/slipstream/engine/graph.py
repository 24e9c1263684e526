"""The decoder of the Llama family as an OpenVINO graph, in the forms that OpenVINO GenAI's paged attention recognises.

Imports OpenVINO: import this module only where a build runs. The graph is stateful: each layer's keys and values are
a variable, which the pipeline's conversion replaces by paged attention. That conversion wants the inputs named as
here, on the node and on its tensor, and cache, grouped heads and attention spelled as in `_attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op.util import Variable, VariableInfo

from slipstream.engine.checkpoint import Checkpoint
from slipstream.engine.non_finite import flagged_logits
from slipstream.engine.rope import inverse_frequencies
from slipstream.engine.weights import Value, float_constant
from slipstream.trtllm_checkpoint.config import Architecture
from slipstream.trtllm_checkpoint.linear import Linear, can_join, joined
from slipstream.trtllm_checkpoint.shard import Array, as_float32

CACHE_NAME = "past_key_values.{layer}.{kind}"


def build_graph(
    architecture: Architecture,
    checkpoint: Checkpoint,
    on_layer: Callable[[int], None],
    weight_value: Callable[[Linear], Value],
) -> ov.Model:
    """The whole model: `input_ids` [batch, tokens] to `logits` [batch, tokens, vocab_size + 1], see non_finite.py.

    `on_layer` is called with the number of each layer when it is done; `weight_value` gives a weight's form.
    """
    inputs = _Inputs()
    embedding = checkpoint.embedding()
    decoder = _Decoder(architecture, checkpoint, inputs, weight_value)
    hidden = ops.gather(float_constant(embedding), inputs.input_ids, _index(0))
    for layer in range(architecture.num_layers):
        hidden = decoder.layer(layer, hidden)
        on_layer(layer)
    hidden = decoder.rms_norm(hidden, checkpoint.final_norm())
    lm_head = checkpoint.lm_head()
    logits = flagged_logits(hidden, embedding if lm_head is None else lm_head)
    logits.output(0).set_names({"logits"})
    return ov.Model([ops.result(logits, name="logits")], decoder.cache_writes, inputs.all, architecture.name)


class _Inputs:
    """What the pipeline feeds, and the values that all layers derive from it."""

    def __init__(self) -> None:
        self.input_ids = _parameter("input_ids", [-1, -1], np.int64)
        self.attention_mask = _parameter("attention_mask", [-1, -1], np.int64)
        self.position_ids = _parameter("position_ids", [-1, -1], np.int64)
        self.beam_idx = _parameter("beam_idx", [-1], np.int32)
        self.all = [self.input_ids, self.attention_mask, self.position_ids, self.beam_idx]
        self.batch = ops.gather(ops.shape_of(self.input_ids), _shape(0), _index(0))

    def causal_mask(self) -> Value:
        """[batch, 1, tokens, all tokens], true where a token may look. Paged attention drops it."""
        num_tokens = ops.gather(ops.shape_of(self.input_ids), _index(1), _index(0))
        num_all = ops.gather(ops.shape_of(self.attention_mask), _index(1), _index(0))
        keys = ops.range(_index(0), num_all, _index(1), "i64")
        queries = ops.range(ops.subtract(num_all, num_tokens), num_all, _index(1), "i64")
        is_past = ops.less_equal(ops.unsqueeze(keys, _index(0)), ops.unsqueeze(queries, _index(1)))
        is_token = ops.convert(ops.unsqueeze(self.attention_mask, _shape(1, 2)), "boolean")
        return ops.logical_and(is_past, is_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rotation:
    """Cosine and sine of every token's angles, [batch, 1, tokens, head_size]."""

    cos: Value
    sin: Value
    half_head: int

    def __call__(self, heads: Value) -> Value:
        """Rotate `heads` [batch, heads, tokens, head_size]; the two halves of a head are the two coordinates."""
        # Fused into one RoPE operation only if split along 3, not -1: about a third of a single stream's speed.
        halves = ops.variadic_split(heads, _index(3), _shape(self.half_head, self.half_head))
        turned = ops.concat([ops.multiply(halves.output(1), np.float32(-1)), halves.output(0)], -1)
        return ops.add(ops.multiply(heads, self.cos), ops.multiply(turned, self.sin))


class _Decoder:
    """The layers; they share the rotation and the mask, and collect the writes to the cache."""

    def __init__(
        self,
        architecture: Architecture,
        checkpoint: Checkpoint,
        inputs: _Inputs,
        weight_value: Callable[[Linear], Value],
    ) -> None:
        self._architecture = architecture
        self._checkpoint = checkpoint
        self._inputs = inputs
        self._weight_value = weight_value
        self._mask = inputs.causal_mask()
        self._rotate = _rotation(architecture, inputs.position_ids)
        self.cache_writes: list[Value] = []

    def layer(self, layer: int, hidden: Value) -> Value:
        hidden = ops.add(hidden, self._attention(layer, hidden))
        return ops.add(hidden, self._mlp(layer, hidden))

    def rms_norm(self, hidden: Value, weight: Array) -> Value:
        """Over the last dimension of `hidden`."""
        mean_square = ops.reduce_mean(ops.power(hidden, np.float32(2)), _index(-1), keep_dims=True)
        length = ops.sqrt(ops.add(mean_square, np.float32(self._architecture.norm_epsilon)))
        scale = ops.divide(np.float32(1), length)
        return ops.multiply(ops.multiply(hidden, scale), ops.constant(as_float32(weight)))

    def _attention(self, layer: int, hidden: Value) -> Value:
        architecture = self._architecture
        q, k, v = self._queries_keys_values(layer, hidden)
        keys = self._with_cache(layer, "key", self._rotate(k))
        values = self._with_cache(layer, "value", v)
        attended = ops.scaled_dot_product_attention(
            self._rotate(q), self._for_every_query_head(keys), self._for_every_query_head(values), self._mask
        )
        joined = ops.reshape(_swap_heads_and_tokens(attended), _shape(0, 0, -1), special_zero=True)
        width = architecture.num_heads * architecture.head_size
        return self._linear(joined, self._checkpoint.row_parallel(layer, "attention.dense", width))

    def _queries_keys_values(self, layer: int, hidden: Value) -> list[Value]:
        """Each [batch, its heads, tokens, head_size], normalized where the architecture does so."""
        architecture, checkpoint = self._architecture, self._checkpoint
        (qkv,) = self._normalized_products(hidden, checkpoint.norm(layer, "input_layernorm"), [checkpoint.qkv(layer)])
        bias = checkpoint.qkv_bias(layer)
        if bias is not None:
            qkv = ops.add(qkv, ops.constant(as_float32(bias)))
        heads = [architecture.num_heads, architecture.num_kv_heads, architecture.num_kv_heads]
        parts = ops.variadic_split(qkv, _index(-1), _shape(*(count * architecture.head_size for count in heads)))
        q, k, v = (
            ops.reshape(parts.output(part), _shape(0, 0, count, architecture.head_size), special_zero=True)
            for part, count in enumerate(heads)
        )
        if architecture.has_qk_norm:
            q = self.rms_norm(q, checkpoint.norm(layer, "attention.q_layernorm"))
            k = self.rms_norm(k, checkpoint.norm(layer, "attention.k_layernorm"))
        return [_swap_heads_and_tokens(value) for value in (q, k, v)]

    def _with_cache(self, layer: int, kind: str, new: Value) -> Value:
        """Append `new` to the layer's cache, [batch, KV heads, all tokens, head_size]."""
        kv_heads, head_size = self._architecture.num_kv_heads, self._architecture.head_size
        info = VariableInfo()
        info.data_shape = ov.PartialShape([-1, kv_heads, -1, head_size])
        info.data_type = ov.Type.f32
        info.variable_id = CACHE_NAME.format(layer=layer, kind=kind)
        variable = Variable(info)
        no_tokens = ops.broadcast(np.float32(0), ops.concat([self._inputs.batch, _shape(kv_heads, 0, head_size)], 0))
        past = ops.gather(ops.read_value(no_tokens, variable), self._inputs.beam_idx, _index(0))
        everything = ops.concat([past, new], -2)
        self.cache_writes.append(ops.assign(everything, variable))
        return everything

    def _for_every_query_head(self, heads: Value) -> Value:
        """Repeat each KV head for the query heads of its group."""
        architecture = self._architecture
        group_size = architecture.num_heads // architecture.num_kv_heads
        if group_size == 1:
            return heads
        shape = ops.shape_of(heads)
        num_tokens = ops.gather(shape, _shape(2), _index(0))
        size = _shape(architecture.head_size)
        grouped = ops.concat([self._inputs.batch, _shape(architecture.num_kv_heads, group_size), num_tokens, size], 0)
        repeated = ops.broadcast(ops.unsqueeze(heads, _index(2)), grouped, "BIDIRECTIONAL")
        return ops.reshape(repeated, _shape(0, architecture.num_heads, -1, architecture.head_size), special_zero=True)

    def _mlp(self, layer: int, hidden: Value) -> Value:
        """SwiGLU. TensorRT-LLM calls the activated branch `fc` and the other `gate`."""
        checkpoint, width = self._checkpoint, self._architecture.intermediate_size
        norm = checkpoint.norm(layer, "post_layernorm")
        branches = [checkpoint.column_parallel(layer, name, width).scaled_by_row() for name in ("mlp.fc", "mlp.gate")]
        if can_join(branches, axis=0):
            # One product for both branches: the fastest form for a single stream, and the same numbers.
            (both,) = self._normalized_products(hidden, norm, [joined(branches, axis=0)])
            activated, other = ops.split(both, _index(-1), 2).outputs()
        else:  # AWQ scales the input of each by other numbers
            activated, other = self._normalized_products(hidden, norm, branches)
        gated = ops.multiply(ops.swish(activated), other)
        return self._linear(gated, checkpoint.row_parallel(layer, "mlp.proj", width))

    def _normalized_products(self, hidden: Value, norm: Array, linears: Sequence[Linear]) -> list[Value]:
        """`hidden` normalized with the weight `norm`, then through each of `linears`."""
        scales = linears[0].input_scales
        if len(linears) > 1 or scales is None:
            normalized = self.rms_norm(hidden, norm)
            return [self._linear(normalized, linear) for linear in linears]
        # The norm multiplies by the scales as well: a pass over the activations less.
        normalized = self.rms_norm(hidden, as_float32(norm) * as_float32(scales))
        return [_matmul(normalized, self._weight_value(linears[0]))]

    def _linear(self, hidden: Value, linear: Linear) -> Value:
        if linear.input_scales is not None:
            hidden = ops.multiply(hidden, ops.constant(as_float32(linear.input_scales)))
        return _matmul(hidden, self._weight_value(linear))


def _rotation(architecture: Architecture, position_ids: Value) -> _Rotation:
    """In the order that OpenVINO fuses into one RoPE operation, angles in float32 whatever the inference precision."""
    frequencies = ops.constant(inverse_frequencies(architecture).reshape(1, -1, 1))
    positions = ops.convert(ops.unsqueeze(position_ids, _index(1)), "f32")
    angles = ops.transpose(ops.matmul(frequencies, positions, transpose_a=False, transpose_b=False), _shape(0, 2, 1))
    both_halves = ops.concat([angles, angles], -1)
    heads_axis = _index(1)
    return _Rotation(
        cos=ops.unsqueeze(ops.cos(both_halves), heads_axis),
        sin=ops.unsqueeze(ops.sin(both_halves), heads_axis),
        half_head=architecture.head_size // 2,
    )


def _matmul(hidden: Value, weight: Value) -> Value:
    return ops.matmul(hidden, weight, transpose_a=False, transpose_b=True)


def _parameter(name: str, shape: list[int], dtype: type[np.generic]) -> Value:
    parameter = ops.parameter(shape, dtype, name=name)
    # With the tensor's name only, the conversion to paged attention stops half-way.
    parameter.output(0).set_names({name})
    return parameter


def _swap_heads_and_tokens(value: Value) -> Value:
    return ops.transpose(value, _shape(0, 2, 1, 3))


def _shape(*sizes: int) -> Value:
    return ops.constant(np.array(sizes, dtype=np.int64))


def _index(value: int) -> Value:
    return ops.constant(np.int64(value))
