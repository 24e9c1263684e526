"""One rank's part of the decoder, run on token ids: float32 between the linear layers, however they are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from slipstream.quantize.verify.attention import Rotary, attend, through_cache
from slipstream.quantize.verify.communication import Communication
from slipstream.quantize.verify.linear import LinearFormat, Stored, load_linear
from slipstream.quantize.verify.mixture import Mixture
from slipstream.trtllm_checkpoint.config import Architecture
from slipstream.trtllm_checkpoint.ranks import Linear, Rank, linears_of_layer, vocabulary_rows
from slipstream.trtllm_checkpoint.shard import Array, Shard, as_float32

if TYPE_CHECKING:
    from torch import Tensor

OneLayer = Callable[["Tensor"], "Tensor"]
SUFFIXES = (
    "weight",
    "weights_scaling_factor",
    "weights_scaling_factor_2",
    "activation_scaling_factor",
    "prequant_scaling_factor",
)
SHARED_BY_EXPERTS = "activation_scaling_factor"


class RankDecoder:
    """The layers that `rank` holds; layers are read one at a time, so that a rank needs little memory."""

    def __init__(
        self, architecture: Architecture, rank: Rank, shard: Shard, communication: Communication, device: str
    ) -> None:
        self._architecture = architecture
        self._rank = rank
        self._shard = shard
        self._communication = communication
        self._device = device
        self.input_ranges: dict[str, float] = {}  # linear layer → largest magnitude of what it had to quantize

    def __call__(self, input_ids: Tensor) -> Tensor | None:
        """Logits [batch, tokens, vocabulary with padding] on the last stage, None on the others."""
        import torch

        hidden = self._embed(input_ids)
        if not self._rank.is_first_stage:
            hidden = self._communication.receive_from_previous_stage(hidden)
        rotary = Rotary(self._architecture, input_ids.shape[1], self._device)
        for layer in range(self._rank.num_layers):
            hidden = self._layer(layer, hidden, rotary)
        if not self._rank.is_last_stage:
            self._communication.send_to_next_stage(hidden)
            return None
        hidden = self._normed("transformer.ln_f", hidden)
        name = "lm_head.weight"
        lm_head = self._tensor(name if name in self._shard.entries else "transformer.vocab_embedding.weight")
        return self._communication.gather(torch.nn.functional.linear(hidden, lm_head))

    def layer_errors(self, recorded: Tensor) -> dict[int, float]:
        """By how much each layer of this rank, started from what was `recorded`, misses what was recorded after it.

        `recorded` [layers + 1, batch, tokens, hidden], the last one after the final norm. The largest over the tokens,
        as a share of what the layer adds to its input.
        """
        rotary = Rotary(self._architecture, recorded.shape[2], self._device)
        errors = {}
        for local in range(self._rank.num_layers):
            layer = self._rank.first_layer + local
            before, wanted = recorded[layer], recorded[layer + 1]
            found = self._layer(local, before, rotary)
            added = wanted - before
            if layer == self._architecture.num_layers - 1:
                found, added = self._normed("transformer.ln_f", found), wanted
            errors[layer] = float(((found - wanted).norm(dim=-1) / added.norm(dim=-1)).max())
        return errors

    def _embed(self, input_ids: Tensor) -> Tensor:
        """Every rank looks up the tokens that it holds; the others' rows are zero."""
        import torch

        if not self._rank.is_first_stage:
            return torch.zeros(*input_ids.shape, self._architecture.hidden_size, device=self._device)
        table = self._tensor("transformer.vocab_embedding.weight")
        if self._architecture.parallelism.embedding_axis is None:
            return table[input_ids]
        if self._architecture.parallelism.embedding_axis == 1:
            return self._communication.gather(table[input_ids])
        held = vocabulary_rows(self._architecture, self._rank, self._architecture.vocab_size)
        is_here = (input_ids >= held.start) & (input_ids < held.stop)
        rows = table[torch.where(is_here, input_ids - held.start, 0)]
        return self._communication.sum(rows * is_here[..., None])

    def _layer(self, layer: int, hidden: Tensor, rotary: Rotary) -> Tensor:
        prefix = f"transformer.layers.{layer}"
        linears = {
            linear.name.rpartition(".")[2]: linear for linear in linears_of_layer(self._architecture, self._rank, layer)
        }
        attended = self._attention(
            prefix, linears["qkv"], linears["dense"], self._normed(f"{prefix}.input_layernorm", hidden), rotary
        )
        hidden = hidden + attended
        normed = self._normed(f"{prefix}.post_layernorm", hidden)
        if "router" in linears:
            return hidden + self._communication.sum(self._mixture(linears)(normed))
        return hidden + self._mlp(linears, normed)

    def _mlp(self, linears: dict[str, Linear], activations: Tensor) -> Tensor:
        import torch

        gated = torch.nn.functional.silu(self._linear(linears["fc"])(activations))
        return self._linear(linears["proj"])(gated * self._linear(linears["gate"])(activations))

    def _attention(self, prefix: str, qkv: Linear, dense: Linear, activations: Tensor, rotary: Rotary) -> Tensor:
        import torch

        architecture = self._architecture
        algo = architecture.quantization.kv_cache_algo
        sizes = [len(part.source_rows) for part in qkv.parts]
        queries, keys, values = (
            rows.reshape(*rows.shape[:2], -1, architecture.head_size).transpose(1, 2)
            for rows in torch.split(self._linear(qkv)(activations), sizes, -1)
        )
        if architecture.has_qk_norm:
            queries = self._normed(f"{prefix}.attention.q_layernorm", queries)
            keys = self._normed(f"{prefix}.attention.k_layernorm", keys)
        scale = self._tensor(f"{prefix}.attention.kv_cache_scaling_factor") if algo else None
        keys, values = through_cache(rotary(keys), algo, scale), through_cache(values, algo, scale)
        attended = attend(rotary(queries), keys, values, architecture.sliding_window_tokens)
        return self._linear(dense)(attended.transpose(1, 2).flatten(2))

    def _linear(self, linear: Linear) -> OneLayer:
        """`linear` with its bias, and summed over the ranks where it is cut by columns."""
        layer = self._loaded(linear, self._stored(linear.name))
        bias_name = f"{linear.name}.bias"
        bias = self._tensor(bias_name) if bias_name in self._shard.entries else None

        def run(activations: Tensor) -> Tensor:
            output = layer(activations)
            output = self._communication.sum(output) if linear.cut == "row" else output
            return output if bias is None else output + bias

        return run

    def _mixture(self, linears: dict[str, Linear]) -> Mixture:
        fc = linears["fc"]
        held = fc.experts or 0
        return Mixture(
            router=self._loaded(linears["router"], self._stored(linears["router"].name)),
            fc=list(self._expert_layers(fc)),
            proj=list(self._expert_layers(linears["proj"])),
            first_expert=self._rank.tp_rank % self._architecture.parallelism.moe_ep_size * held,
            chosen=self._architecture.experts.chosen if self._architecture.experts else 0,
        )

    def _expert_layers(self, linear: Linear) -> Iterator[LinearFormat]:
        stored = self._stored(linear.name)
        for expert in range(linear.experts or 0):
            one = {
                suffix: values if suffix == SHARED_BY_EXPERTS else values[expert] for suffix, values in stored.items()
            }
            yield self._loaded(linear, one)

    def _loaded(self, linear: Linear, stored: Stored) -> LinearFormat:
        """The layer, which also notes the range of its activations."""
        layer = load_linear(linear.algo, stored, self._device, self._row_maximum(linear))
        prequant = _scale(stored.get("prequant_scaling_factor"), self._device)

        def run(activations: Tensor) -> Tensor:
            largest = float((activations.abs() * prequant).max())
            self.input_ranges[linear.name] = max(largest, self.input_ranges.get(linear.name, 0.0))
            return layer(activations)

        return run

    def _row_maximum(self, linear: Linear) -> OneLayer:
        """For weights that are quantized at load: whole rows where ranks hold the columns of the same layer."""
        has_same_layer = linear.experts is None or self._architecture.parallelism.moe_ep_size == 1
        return self._communication.maximum if linear.cut == "row" and has_same_layer else _same

    def _stored(self, name: str) -> Stored:
        names = {suffix: f"{name}.{suffix}" for suffix in SUFFIXES}
        return {suffix: self._shard.tensor(full) for suffix, full in names.items() if full in self._shard.entries}

    def _normed(self, name: str, values: Tensor) -> Tensor:
        """RMSNorm over the last axis."""
        import torch

        mean_square = values.pow(2).mean(-1, keepdim=True)
        return values * torch.rsqrt(mean_square + self._architecture.norm_epsilon) * self._tensor(f"{name}.weight")

    def _tensor(self, name: str) -> Tensor:
        import torch

        return torch.tensor(as_float32(self._shard.tensor(name)), device=self._device)


def _scale(values: Array | None, device: str) -> Tensor:
    """`values` as float32, or one where there is none."""
    import torch

    return torch.ones((), device=device) if values is None else torch.tensor(as_float32(values), device=device)


def _same(values: Tensor) -> Tensor:
    return values
