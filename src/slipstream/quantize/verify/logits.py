"""How far a checkpoint's logits and layers are from the reference's, and how far they may be.

Two things make them differ although every stored number is right. Sums are taken in another order (ranks add up parts):
that is float32's precision. And numbers on a rounding edge fall to its other side: ModelOpt's quantizer multiplies by
127 / amax where its export divides by amax / 127, so that a few codes in a million differ by one; and an activation on
the edge of an int8 or FP8 step goes the other way for the last bit of a sum. Such a step is up to 1/16 of an FP8
number, and a deep model may make much of it: so each layer is also run alone, from the recorded input, and judged by
that.

=======================  ==================  ======  ==================  =====
format                   a layer's output    KL      logits              notes
=======================  ==================  ======  ==================  =====
none, W8A16              1e-4                1e-6    1e-3                exact but for the order of sums
W4A16_AWQ                0.02                1e-3    0.1                 codes on a rounding edge
FP8, W8A8_SQ, NVFP4      0.15                1       5                   activations on a rounding edge
W4A8_AWQ                 0.15                1       5                   both
FP8 or INT8 KV cache     0.15                1       5                   the same of keys and values
=======================  ==================  ======  ==================  =====

A layer's output: the largest error of a token's vector, as a share of what the layer adds to it. KL: mean over tokens,
in nats. Logits: the largest error, as a share of the logits' standard deviation; of formats with a layer limit of 0.15
it counts only where no layer inputs were recorded. The limits are a few times what
was measured (docs/verification.md): 5e-6 for floats and for most layers of every format, 6e-3 for AWQ, and 0.07 for the
others; a fault changes its layer by as much as it changes the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slipstream.errors import SlipstreamError
from slipstream.trtllm_checkpoint.config import Architecture, QuantAlgo, Quantization
from slipstream.trtllm_checkpoint.shard import Float32Array, Shard, as_float32

REFERENCE_NAME = "reference_logits.safetensors"
K_CACHE, V_CACHE = ".k_cache", ".v_cache"  # after an attention's name: what goes into its caches
INPUT_AMAX = ".input_amax"  # suffix of tensors of the reference: what a linear layer's activation scale stands for


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What a right checkpoint keeps to; see above."""

    layer: float
    kl: float
    error: float


FLOAT = Tolerance(layer=1e-4, kl=1e-6, error=1e-3)
GROUPS = Tolerance(layer=0.02, kl=1e-3, error=0.1)
STEPS = Tolerance(layer=0.15, kl=1.0, error=5.0)
_BY_ALGO: dict[QuantAlgo | None, Tolerance] = {
    None: FLOAT,
    "W8A16": FLOAT,
    "W4A16_AWQ": GROUPS,
    "FP8": STEPS,
    "W8A8_SQ_PER_CHANNEL": STEPS,
    "NVFP4": STEPS,
    "W4A8_AWQ": STEPS,
}
# Against the model before quantization: what 4-bit formats lose on tokens drawn at random stays below.
MAX_KL = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """ModelOpt's fake-quantized model on a few tokens, with scales united as the export unites them."""

    input_ids: npt.NDArray[np.int64]  # [batch, tokens]
    logits: Float32Array  # [batch, tokens, vocabulary]
    hidden_states: Float32Array | None  # [layers + 1, batch, tokens, hidden], the last after the final norm
    input_amax: dict[str, float]  # Hugging Face linear layer → largest magnitude that its activation scale covers


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Logits against the reference's."""

    max_abs_error: float
    kl: float
    top1_agreement: float
    tolerated_error: float | None  # None: single logits are not judged, each layer is
    tolerated_kl: float

    @property
    def is_within(self) -> bool:
        is_near = self.tolerated_error is None or self.max_abs_error <= self.tolerated_error
        return is_near and self.kl <= self.tolerated_kl


def read_reference(checkpoint: Path, architecture: Architecture) -> Reference | None:
    """The reference beside the checkpoint; None where there is none. SlipstreamError for one of another model."""
    path = checkpoint / REFERENCE_NAME
    if not path.exists():
        return None
    shard = Shard(path)
    names = [name for name in shard.entries if name.endswith(INPUT_AMAX)]
    reference = Reference(
        input_ids=np.array(shard.tensor("input_ids"), dtype=np.int64),
        logits=as_float32(shard.tensor("logits")),
        hidden_states=as_float32(shard.tensor("hidden_states")) if "hidden_states" in shard.entries else None,
        input_amax={name.removesuffix(INPUT_AMAX): float(shard.tensor(name).max(initial=0)) for name in names},
    )
    _require_fit(path, reference, architecture)
    return reference


def _require_fit(path: Path, reference: Reference, architecture: Architecture) -> None:
    ids, logits, states = reference.input_ids, reference.logits, reference.hidden_states
    wanted_states = (architecture.num_layers + 1, *ids.shape, architecture.hidden_size)
    fits = (
        ids.ndim == 2
        and ids.size > 0
        and bool(((ids >= 0) & (ids < architecture.vocab_size)).all())
        and logits.shape[:-1] == ids.shape
        and logits.shape[-1] <= architecture.vocab_size
        and logits.shape[-1] > 0
        and (states is None or states.shape == wanted_states)
        and all(np.isfinite(amax) and amax > 0 for amax in reference.input_amax.values())
    )
    if not fits:
        raise SlipstreamError(
            f"{path.name}: its input_ids {list(ids.shape)}, logits {list(logits.shape)} or hidden_states are not of"
            f" this checkpoint, with {architecture.num_layers} layers of {architecture.hidden_size} and"
            f" {architecture.vocab_size} tokens",
            mend="quantize the model again",
        )


def compare_logits(
    found: Float32Array, wanted: Float32Array, quantization: Quantization, *, layers_are_judged: bool = False
) -> Comparison:
    """`found` [batch, tokens, vocabulary with padding] against `wanted`.

    Where activations are rounded, one that falls on the other side of an edge may change a single token's logits by
    any amount: with `layers_are_judged` only the mean divergence counts.
    """
    found, limits = found[..., : wanted.shape[-1]], tolerance(quantization)
    log_wanted, log_found = _log_softmax(wanted), _log_softmax(found)
    kl = (np.exp(log_wanted) * (log_wanted - log_found)).sum(-1).mean()
    return Comparison(
        max_abs_error=float(np.abs(found - wanted).max()),
        kl=float(max(kl, 0.0)),
        top1_agreement=float((found.argmax(-1) == wanted.argmax(-1)).mean()),
        tolerated_error=None if layers_are_judged and limits is STEPS else limits.error * float(wanted.std()),
        tolerated_kl=limits.kl,
    )


def tolerance(quantization: Quantization) -> Tolerance:
    """What logits of a checkpoint in this format keep to."""
    limits = _BY_ALGO[quantization.algo]
    return STEPS if quantization.kv_cache_algo else limits


def _log_softmax(logits: Float32Array) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result
