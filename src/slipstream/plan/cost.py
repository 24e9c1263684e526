"""How long one iteration of in-flight batching takes, from work and coefficients; throughput and latency follow.

The form is analytic: matrix products bound by arithmetic or by reading weights, attention over prompts, reading the KV
cache, all-reduce latency and volume, activations that pass through memory, and what an iteration, a layer and a request
cost on the host. The coefficients come from `data/coefficients.json`, which `slipstream.plan.fit` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.plan.cases import GENERATIONS, RUNTIMES, Columns, Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """A positive constant of the cost model: where the fit starts and how far it may go."""

    start: float
    spread: float  # standard deviation of its logarithm, the prior of the fit
    meaning: str


COEFFICIENTS: dict[str, Coefficient] = {
    "mfu": Coefficient(start=0.65, spread=0.5, meaning="share of the 16-bit dense peak that large products reach"),
    **{f"mfu.{name}": Coefficient(start=1, spread=0.1, meaning=f"the same, on {name}") for name in GENERATIONS},
    "mfu.fp8": Coefficient(start=0.9, spread=0.3, meaning="the same, of the FP8 peak, against 16 bits"),
    "mfu.fp4": Coefficient(start=0.8, spread=0.3, meaning="the same, of the FP4 peak, against 16 bits"),
    "mfu.weight_only": Coefficient(start=0.8, spread=0.3, meaning="the same, when weights are expanded first"),
    "mfu.experts": Coefficient(start=0.75, spread=0.2, meaning="the same, of routed experts"),
    "mfu.attention": Coefficient(start=0.4, spread=0.5, meaning="share of the 16-bit peak in prompt attention"),
    "narrow": Coefficient(
        start=500, spread=1.0, meaning="feed-forward width a rank at which products run at half speed"
    ),
    "narrow.experts": Coefficient(start=500, spread=0.7, meaning="the same, of one expert"),
    "weights": Coefficient(start=0.8, spread=0.3, meaning="share of the bandwidth in reading weights"),
    "weights.experts": Coefficient(start=0.9, spread=0.15, meaning="the same, of routed experts"),
    "kv": Coefficient(start=0.6, spread=0.4, meaning="share of the bandwidth in reading the KV cache"),
    **{f"kv.{name}": Coefficient(start=1, spread=0.1, meaning=f"the same, on {name}") for name in GENERATIONS},
    "activations": Coefficient(start=20, spread=0.3, meaning="passes of a token's vector through memory, a layer"),
    "link": Coefficient(start=0.5, spread=0.5, meaning="share of NVLink's bandwidth in all-reduce"),
    "link.pcie": Coefficient(start=0.4, spread=0.5, meaning="share of PCIe's bandwidth in all-reduce"),
    "reduce_us": Coefficient(start=10, spread=0.7, meaning="latency of one all-reduce over NVLink, two ranks"),
    "reduce_us.pcie": Coefficient(start=30, spread=0.7, meaning="the same over PCIe"),
    "reduce_growth": Coefficient(start=0.3, spread=0.7, meaning="growth of that latency with each doubling of ranks"),
    "layer_us": Coefficient(start=20, spread=0.7, meaning="of a layer, whatever it computes"),
    "layer_us.experts": Coefficient(start=10, spread=0.5, meaning="the same, more, with experts"),
    "layer_us.experts.engine": Coefficient(start=5, spread=0.5, meaning="the same, in TensorRT engines"),
    **{
        f"iteration_ms.{n}": Coefficient(start=0.4, spread=0.2, meaning=f"of an iteration on the host, {n}")
        for n in RUNTIMES
    },
    **{
        f"request_us.{n}": Coefficient(start=5, spread=0.7, meaning=f"of a running request in an iteration, {n}")
        for n in RUNTIMES
    },
    "expert_rows": Coefficient(start=16, spread=0.7, meaning="rows that a product of one expert is padded by"),
    "sharpness": Coefficient(start=2, spread=0.3, meaning="exponent that joins arithmetic and memory time"),
    "interleave": Coefficient(start=0.9, spread=0.3, meaning="share of prompt work that delays running replies"),
    "queue": Coefficient(start=0.3, spread=0.7, meaning="of the other requests' prompts, how many one waits for"),
}


def step_seconds(
    c: Columns, k: Mapping[str, float], replies: Floats, prompts: Floats, tokens_per_reply: float = 1
) -> Floats:
    """Seconds of one iteration with `replies` running requests and `prompts` prompts (fractions allowed).

    With a pipeline, of all its stages one after the other, each holding its share of the requests. A reply has more
    than one token when drafted tokens are verified.
    """
    replies, prompts = replies / c.pp, prompts / c.pp
    tokens = replies * tokens_per_reply + prompts * c.input_tokens
    hop = np.where(c.pp > 1, tokens * c.hidden_bytes / c.hop, 0)
    return np.asarray(c.pp * (_stage_seconds(c, k, replies, prompts, tokens) + hop))


def breakdown(c: Columns, k: Mapping[str, float], replies: Floats, prompts: Floats) -> dict[str, Floats]:
    """Seconds of one iteration by what they are spent on; matrix products are told apart by what bounds them."""
    replies, prompts = replies / c.pp, prompts / c.pp
    tokens = replies + prompts * c.input_tokens
    terms = {name: c.pp * seconds for name, seconds in _terms(c, k, replies, prompts, tokens).items()}
    arithmetic, reading = _product_bounds(c, k, tokens, replies + prompts)
    products = terms.pop("matrix products")
    share = arithmetic / (arithmetic + reading)
    return {"arithmetic of matrix products": products * share, "reading weights": products * (1 - share), **terms}


def tokens_per_second(c: Columns, k: Mapping[str, float]) -> Floats:
    """Output tokens a second of a replica: whole waves at full batch, then the last, partial one."""
    full = _wave_seconds(c, k, c.active)
    last = np.where(c.last_wave > 0, _wave_seconds(c, k, np.maximum(c.last_wave, 1)), 0)
    return np.asarray((c.waves * c.active + c.last_wave) * c.output_tokens / (c.waves * full + last))


def tpot_ms(c: Columns, k: Mapping[str, float]) -> Floats:
    """Mean milliseconds between tokens of a reply, prompts of other requests in between."""
    arriving = c.active / c.output_tokens
    return 1e3 * step_seconds(c, k, c.active, arriving * k["interleave"])


def ttft_ms(c: Columns, k: Mapping[str, float]) -> Floats:
    """Mean milliseconds to the first token when `active` clients ask again as soon as they are answered."""
    one = np.ones_like(c.active)
    alone = step_seconds(c, k, 0 * one, one)
    many = step_seconds(c, k, c.active, one + k["queue"] * (c.active - 1))
    return 1e3 * np.maximum(alone, many)


def _stage_seconds(c: Columns, k: Mapping[str, float], replies: Floats, prompts: Floats, tokens: Floats) -> Floats:
    return np.asarray(sum(_terms(c, k, replies, prompts, tokens).values()))


def _terms(c: Columns, k: Mapping[str, float], replies: Floats, prompts: Floats, tokens: Floats) -> dict[str, Floats]:
    """Seconds of one stage by what they are spent on."""
    attention_rate = c.peak16 * k["mfu.attention"] * _of_generation(c, k, "mfu")
    attention = replies * c.reply_attention_flops + prompts * c.prompt_attention_flops
    passes = tokens * c.layers * c.hidden_bytes * k["activations"] / c.bandwidth / np.where(c.is_attention_dp, c.tp, 1)
    routing = np.where(c.runtime == RUNTIMES.index("engine"), k["layer_us.experts.engine"], k["layer_us.experts"])
    layers = c.layers * (k["layer_us"] + np.where(c.expert_count > 1, routing, 0)) * 1e-6
    host = _by(c.runtime, k, "iteration_ms", RUNTIMES) * 1e-3
    requests = (replies + prompts) * _by(c.runtime, k, "request_us", RUNTIMES) * 1e-6
    return {
        "matrix products": _products(c, k, tokens, replies + prompts),
        "reading the KV cache": replies * c.kv_read_bytes / (c.bandwidth * k["kv"] * _of_generation(c, k, "kv")),
        "attention arithmetic": attention / attention_rate,
        "activations through memory": passes,
        "communication between GPUs": _communication(c, k, tokens),
        "launches": layers,
        "host": host + requests,
    }


def _wave_seconds(c: Columns, k: Mapping[str, float], requests: Floats) -> Floats:
    return c.output_tokens * step_seconds(c, k, requests, requests / c.output_tokens)


def _products(c: Columns, k: Mapping[str, float], tokens: Floats, sampled: Floats) -> Floats:
    arithmetic, reading = _product_bounds(c, k, tokens, sampled)
    sharp = k["sharpness"]
    return np.asarray((arithmetic**sharp + reading**sharp) ** (1 / sharp))


def _product_bounds(c: Columns, k: Mapping[str, float], tokens: Floats, sampled: Floats) -> tuple[Floats, Floats]:
    """Seconds that the matrix products take by arithmetic alone, and by reading their weights alone."""
    mfu = k["mfu"] * _of_generation(c, k, "mfu")
    of_format = k["mfu.fp8"] ** c.format_fp8 * k["mfu.fp4"] ** c.format_fp4 * k["mfu.weight_only"] ** c.format_wo
    rate = c.peak * mfu * of_format
    # Of `count` experts, how many are touched when each token picks `per_token` of them at random.
    touched = 1 - (1 - c.experts_per_token / np.maximum(c.expert_count, 1.0001)) ** tokens
    padding = np.where(c.expert_count > 1, touched * c.expert_count * k["expert_rows"] / c.experts_per_token, 0)
    of_experts = c.expert_share / k["mfu.experts"] * (1 + k["narrow.experts"] / c.ffn_per_rank)
    work = tokens * (1 - c.expert_share) * (1 + k["narrow"] / c.dense_width) + (tokens + padding) * of_experts
    arithmetic = c.token_flops * work / rate + sampled * c.head_flops / (c.peak16 * mfu)
    reading = (c.dense_bytes / k["weights"] + touched * c.expert_bytes / k["weights.experts"]) / c.bandwidth
    return arithmetic, reading


def _communication(c: Columns, k: Mapping[str, float], tokens: Floats) -> Floats:
    share = np.where(c.is_pcie > 0, k["link.pcie"], k["link"])
    start_us = np.where(c.is_pcie > 0, k["reduce_us.pcie"], k["reduce_us"])
    latency = start_us * 1e-6 * (1 + k["reduce_growth"] * np.log2(np.maximum(c.tp, 2) / 2))
    # Ring all-reduce passes 2 (n - 1) / n of the vector; dispatch and combine of attention DP as much for each expert.
    sent = 2 * (c.tp - 1) / c.tp * c.hidden_bytes * np.where(c.is_attention_dp, c.experts_per_token / c.tp, 1)
    return np.where(c.tp > 1, 2 * c.layers * (latency + tokens * sent / (c.link * share)), 0)


def _of_generation(c: Columns, k: Mapping[str, float], name: str) -> Floats:
    return _by(c.generation, k, name, GENERATIONS)


def _by(index: NDArray[np.int64], k: Mapping[str, float], name: str, members: tuple[str, ...]) -> Floats:
    return np.asarray(np.array([k[f"{name}.{member}"] for member in members])[index])
