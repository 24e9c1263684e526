"""The shape of a model: what its config.json says about memory and arithmetic, and the counts that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipstream.errors import SlipstreamError

# Families whose feed-forward block has two matrices instead of the three of a gated one (their modeling files).
_UNGATED = frozenset({"phi", "falcon", "gptj", "gpt2", "gpt_neox", "opt", "bloom"})
_OPTIONAL = ("num_key_value_heads", "head_dim", "intermediate_size", "max_position_embeddings")
_REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek): one compressed vector a token instead of K and V of every head."""

    q_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The mixture of experts of a model."""

    count: int
    per_token: int
    ffn: int
    shared_ffn: int  # width of the experts that every token passes; 0: none
    layers: int  # layers that have experts; the others are dense


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Layers that see only the last `tokens`; one layer in `full_every` sees everything (0: none does)."""

    tokens: int
    full_every: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Dimensions of a decoder-only transformer."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    ffn_matrices: int
    vocab: int
    tied: bool  # input and output embedding are one matrix
    max_context: int
    latent: LatentAttention | None = None
    experts: Experts | None = None
    window: Window | None = None

    @property
    def attention_parameters(self) -> int:
        """Of one layer."""
        if self.latent is None:
            return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        a = self.latent
        query = self.hidden * a.q_rank + a.q_rank * self.heads * (a.nope_dim + a.rope_dim)
        key_value = self.hidden * (a.kv_rank + a.rope_dim) + a.kv_rank * self.heads * (a.nope_dim + a.value_dim)
        return query + key_value + self.heads * a.value_dim * self.hidden

    @property
    def dense_parameters(self) -> int:
        """Linear weights that every token passes, all layers: attention, dense feed-forward, router, shared experts."""
        total = self.layers * self.attention_parameters
        if self.experts is None:
            return total + self.layers * self.ffn_matrices * self.hidden * self.ffn
        e = self.experts
        dense_layers = self.layers - e.layers
        shared = e.layers * self.hidden * (self.ffn_matrices * e.shared_ffn + e.count)
        return total + dense_layers * self.ffn_matrices * self.hidden * self.ffn + shared

    @property
    def expert_parameters(self) -> int:
        """Weights of all routed experts of all layers."""
        e = self.experts
        return 0 if e is None else e.layers * e.count * self.ffn_matrices * self.hidden * e.ffn

    @property
    def active_expert_parameters(self) -> int:
        """Weights of the routed experts that one token passes."""
        e = self.experts
        return 0 if e is None else e.layers * e.per_token * self.ffn_matrices * self.hidden * e.ffn

    @property
    def embedding_parameters(self) -> int:
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.dense_parameters + self.expert_parameters + self.embedding_parameters

    @property
    def kv_elements_per_layer(self) -> int:
        """Elements that one token leaves in one layer's KV cache, over all heads."""
        if self.latent is not None:
            return self.latent.kv_rank + self.latent.rope_dim
        return 2 * self.kv_heads * self.head_dim

    @property
    def windowed_layers(self) -> int:
        if self.window is None:
            return 0
        full = self.layers // self.window.full_every if self.window.full_every else 0
        return self.layers - full


def shape_from_config(config: Mapping[str, Any], where: str) -> ModelShape:
    """Read the fields of a Hugging Face `config.json`. Raises SlipstreamError naming what is missing."""
    config = {**config, **config.get("text_config", {})}
    missing = [name for name in _REQUIRED if not _is_size(config.get(name))]
    wrong = [name for name in _OPTIONAL if config.get(name) is not None and not _is_size(config[name])]
    if missing or wrong:
        found = ", ".join(f"{name} {config.get(name)!r}" for name in [*missing, *wrong])
        raise SlipstreamError(
            f"{where}: no {', '.join([*missing, *wrong])} of 1 or more, found {found}",
            mend="give the config.json of a decoder-only model",
        )
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    kind = str(config.get("model_type", ""))
    experts = _experts(config)
    return ModelShape(
        layers=config["num_hidden_layers"],
        hidden=hidden,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        ffn=config.get("intermediate_size_mlp") or config.get("intermediate_size") or 4 * hidden,
        ffn_matrices=2 if kind in _UNGATED else 3,
        vocab=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", kind.startswith("gemma"))),
        max_context=config.get("max_position_embeddings") or 2048,
        latent=_latent(config),
        experts=experts,
        window=_window(config, kind),
    )


def _is_size(found: Any) -> bool:
    return isinstance(found, int) and not isinstance(found, bool) and found > 0


def _latent(config: Mapping[str, Any]) -> LatentAttention | None:
    if not config.get("kv_lora_rank"):
        return None
    return LatentAttention(
        q_rank=config.get("q_lora_rank") or config["hidden_size"],
        kv_rank=config["kv_lora_rank"],
        nope_dim=config["qk_nope_head_dim"],
        rope_dim=config["qk_rope_head_dim"],
        value_dim=config["v_head_dim"],
    )


def _experts(config: Mapping[str, Any]) -> Experts | None:
    count = config.get("num_local_experts") or config.get("num_experts") or config.get("n_routed_experts")
    if not count:
        return None
    layers = config["num_hidden_layers"] - config.get("first_k_dense_replace", 0)
    ffn = config.get("moe_intermediate_size") or config["intermediate_size"]
    # Llama 4 has one shared expert of the routed experts' width and does not say so in its config.
    is_llama4 = config.get("model_type") == "llama4_text"
    return Experts(
        count=count,
        per_token=config.get("num_experts_per_tok") or 1,
        ffn=ffn,
        shared_ffn=ffn if is_llama4 else ffn * (config.get("n_shared_experts") or 0),
        layers=layers // (config.get("interleave_moe_layer_step") or 1),
    )


def _window(config: Mapping[str, Any], kind: str) -> Window | None:
    if kind == "llama4_text" and config.get("attention_chunk_size"):
        return Window(tokens=config["attention_chunk_size"], full_every=4)
    tokens = config.get("sliding_window")
    if not tokens or config.get("use_sliding_window") is False:
        return None
    kinds = config.get("layer_types")
    if kinds:
        full = sum(kind == "full_attention" for kind in kinds)
        return Window(tokens=tokens, full_every=round(len(kinds) / full) if full else 0)
    return Window(tokens=tokens, full_every=config.get("sliding_window_pattern") or 0)
