"""Every quantization method in one table: what TensorRT-LLM calls it, where it runs and what it goes together with.

Read by the recipes, the validator, the planner and the docs. Sources: the loader and builder rules of TensorRT-LLM
1.2 (QuantAlgo, KV cache and SM checks) and ModelOpt's export to its checkpoint format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from slipstream.errors import SpecError

Method = Literal["none", "int8_wo", "int8_sq", "fp8", "int4_awq", "w4a8_awq", "nvfp4"]
KvCache = Literal["auto", "fp8", "int8"]
KvEffect = Literal["full", "no_paged_context_fmha", "refused"]

ADA = 89  # the first GPUs with FP8: sm_89 (L4, L40S, RTX 40), sm_90 (H100, H200)
BLACKWELL = 100  # the first GPUs with FP4: sm_100 (B200), sm_103 (B300), sm_120 (RTX 50)
# TensorRT-LLM's builder raises for integer weights, SmoothQuant and an INT8 KV cache on these (100 <= sm < 120).
NO_INTEGERS = range(100, 120)


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCombination:
    """What a KV cache format does to an engine whose weights are in some method."""

    effect: KvEffect
    reason: str = ""  # why it is not "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One way of storing a model's linear layers; lm_head and the embedding keep the model's 16 bits in all of them."""

    name: Method
    summary: str
    quant_algo: str | None  # TensorRT-LLM's name; None: not quantized
    weight_bits: int
    activation_bits: int
    group_sizes: tuple[int, ...]  # inputs that share a scale, the recommended size first; empty: per row or tensor
    scale_bits_per_weight: float  # what a group's scales add in the engine (AWQ's file: twice that), at that size
    min_sm: int  # compute capability x 10, as 89
    is_integer: bool  # integer weights, which TensorRT-LLM rejects on NO_INTEGERS
    llm_api: bool  # TensorRT-LLM's LLM API reads its unified Hugging Face export
    duplicates_kv_heads: bool  # can be exported with more tensor-parallel ranks than KV heads
    needs_calibration: bool  # whether scales depend on activations
    kv: Mapping[KvCache, KvCombination]
    next_recipes: tuple[Method, ...]  # to try when accuracy is not enough, the smallest step first

    @property
    def bits_per_weight(self) -> float:
        """Of a linear layer, its scales included."""
        return self.weight_bits + self.scale_bits_per_weight


_FULL = KvCombination(effect="full")
_LOST = "paged context FMHA, and with it KV cache reuse, chunked prefill and draft-target, is switched off"
_FP8_KV_ON_OTHERS = KvCombination(
    effect="no_paged_context_fmha",
    reason=f"{_LOST}: with an FP8 KV cache it needs FP8, W4A8 or NVFP4 weights",
)
_INT8_KV = KvCombination(effect="no_paged_context_fmha", reason=f"{_LOST}: it cannot read an INT8 KV cache")
_INT8_KV_ON_BLACKWELL = KvCombination(
    effect="refused",
    reason="NVFP4 runs on sm_100 and newer, and TensorRT-LLM rejects an INT8 KV cache on sm_100 to sm_119",
)
_FLOAT_KV: Mapping[KvCache, KvCombination] = {"auto": _FULL, "fp8": _FP8_KV_ON_OTHERS, "int8": _INT8_KV}
_FP8_KV: Mapping[KvCache, KvCombination] = {"auto": _FULL, "fp8": _FULL, "int8": _INT8_KV}

FORMATS: Mapping[str, Format] = {
    entry.name: entry
    for entry in (
        Format(
            name="none",
            summary="16-bit weights, as they are",
            quant_algo=None,
            weight_bits=16,
            activation_bits=16,
            group_sizes=(),
            scale_bits_per_weight=0,
            min_sm=80,
            is_integer=False,
            llm_api=True,
            duplicates_kv_heads=True,
            needs_calibration=False,
            kv=_FLOAT_KV,
            next_recipes=(),
        ),
        Format(
            name="int8_wo",
            summary="INT8 weights with one scale per output row, 16-bit activations",
            quant_algo="W8A16",
            weight_bits=8,
            activation_bits=16,
            group_sizes=(),
            scale_bits_per_weight=0,
            min_sm=80,
            is_integer=True,
            llm_api=True,
            duplicates_kv_heads=True,  # the exported weights are floats, quantized when they are loaded
            needs_calibration=False,
            kv=_FLOAT_KV,
            next_recipes=("none",),
        ),
        Format(
            name="int8_sq",
            summary="INT8 weights with one scale per output row, INT8 activations smoothed by SmoothQuant",
            quant_algo="W8A8_SQ_PER_CHANNEL",
            weight_bits=8,
            activation_bits=8,
            group_sizes=(),
            scale_bits_per_weight=0,
            min_sm=80,
            is_integer=True,
            llm_api=False,
            duplicates_kv_heads=False,
            needs_calibration=True,
            kv=_FLOAT_KV,
            next_recipes=("fp8", "int8_wo", "none"),
        ),
        Format(
            name="fp8",
            summary="FP8 (E4M3) weights and activations with one scale per tensor",
            quant_algo="FP8",
            weight_bits=8,
            activation_bits=8,
            group_sizes=(),
            scale_bits_per_weight=0,
            min_sm=ADA,
            is_integer=False,
            llm_api=True,
            duplicates_kv_heads=True,
            needs_calibration=True,
            kv=_FP8_KV,
            next_recipes=("int8_wo", "none"),
        ),
        Format(
            name="int4_awq",
            summary="INT4 weights in groups, scaled by AWQ; 16-bit activations",
            quant_algo="W4A16_AWQ",
            weight_bits=4,
            activation_bits=16,
            group_sizes=(128, 64),
            scale_bits_per_weight=16 / 128,
            min_sm=80,
            is_integer=True,
            llm_api=True,
            duplicates_kv_heads=True,
            needs_calibration=True,
            kv=_FLOAT_KV,
            next_recipes=("int8_wo", "none"),
        ),
        Format(
            name="w4a8_awq",
            summary="INT4 weights in groups, scaled by AWQ; FP8 activations",
            quant_algo="W4A8_AWQ",
            weight_bits=4,
            activation_bits=8,
            group_sizes=(128,),
            scale_bits_per_weight=16 / 128,
            min_sm=ADA,
            is_integer=True,
            llm_api=True,
            duplicates_kv_heads=True,
            needs_calibration=True,
            kv=_FP8_KV,
            next_recipes=("fp8", "int4_awq", "int8_wo", "none"),
        ),
        Format(
            name="nvfp4",
            summary="FP4 (E2M1) weights and activations in blocks of 16 with FP8 scales",
            quant_algo="NVFP4",
            weight_bits=4,
            activation_bits=4,
            group_sizes=(16,),
            scale_bits_per_weight=8 / 16,
            min_sm=BLACKWELL,
            is_integer=False,
            llm_api=True,
            duplicates_kv_heads=True,
            needs_calibration=True,
            kv={"auto": _FULL, "fp8": _FULL, "int8": _INT8_KV_ON_BLACKWELL},
            next_recipes=("fp8", "none"),
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A method that people ask for by a name that is no recipe."""

    reason: str
    mend: str


# Written without punctuation: `W4A16-GPTQ` and `w4a16_gptq` are asked alike.
_REFUSED: Mapping[str, Refusal] = {
    "gptq": Refusal(
        reason="GPTQ is not done here: ModelOpt quantizes 4-bit weights by AWQ",
        mend="set quantization.recipe to int4_awq and model.source to the unquantized model",
    ),
    "gguf": Refusal(
        reason="GGUF is a file format that TensorRT-LLM does not read, not a way to quantize",
        mend="give the .gguf file as model.source: its weights are dequantized; then name a recipe, such as int8_wo",
    ),
    "qat": Refusal(
        reason="training is not part of this project",
        mend="train with ModelOpt, save with its Hugging Face plugin (modelopt_state.pth beside the weights) and give"
        " that directory as model.source with the recipe it was trained for: it is exported as it stands",
    ),
    "bnb": Refusal(
        reason="bitsandbytes (LLM.int8, NF4) has no TensorRT-LLM format",
        mend="set quantization.recipe to int8_wo for 8 bits or int4_awq for 4",
    ),
    "int8": Refusal(
        reason="INT8 comes in two kinds",
        mend="set quantization.recipe to int8_wo (weights only, next to no loss) or int8_sq (activations too)",
    ),
    "int4": Refusal(
        reason="4-bit weights without AWQ's scales lose too much",
        mend="set quantization.recipe to int4_awq, or w4a8_awq for FP8 activations",
    ),
    "fp4": Refusal(reason="FP4 is NVFP4 in TensorRT-LLM", mend="set quantization.recipe to nvfp4 (sm_100 and newer)"),
    "w8a8": Refusal(
        reason="W8A8 is FP8 or INT8 SmoothQuant",
        mend="set quantization.recipe to fp8 (sm_89 and newer) or int8_sq (older GPUs)",
    ),
    "w8a16": Refusal(reason="W8A16 is TensorRT-LLM's name", mend="set quantization.recipe to int8_wo"),
    "w4a16": Refusal(reason="W4A16 is TensorRT-LLM's name", mend="set quantization.recipe to int4_awq"),
    "w4a8": Refusal(reason="W4A8 is TensorRT-LLM's name", mend="set quantization.recipe to w4a8_awq"),
    "smoothquant": Refusal(reason="SmoothQuant is the recipe int8_sq", mend="set quantization.recipe to int8_sq"),
    "awq": Refusal(
        reason="AWQ comes in two kinds",
        mend="set quantization.recipe to int4_awq (16-bit activations) or w4a8_awq (FP8 activations)",
    ),
    "mxfp4": Refusal(
        reason="MXFP4 checkpoints are trained, not made by calibration", mend="set quantization.recipe to nvfp4"
    ),
    "auto": Refusal(reason="mixed precision is not searched for", mend="name one recipe, such as fp8 or int8_wo"),
}
_ALIASES: Mapping[str, str] = {
    "autoawq": "awq",
    "autoquantize": "auto",
    "bitsandbytes": "bnb",
    "e4m3": "w8a8",
    "gptqmodel": "gptq",
    "int4wo": "int4",
    "int8sq": "smoothquant",
    "int8weightonly": "w8a16",
    "int8wo": "w8a16",
    "llmint8": "bnb",
    "marlin": "gptq",
    "mixedprecision": "auto",
    "nf4": "bnb",
    "qlora": "bnb",
    "sq": "smoothquant",
    "w4a16awq": "w4a16",
    "w4a16gptq": "gptq",
    "w4a8awq": "w4a8",
    "w8a16gptq": "gptq",
    "w8a8sqperchannel": "smoothquant",
}
_ALSO: Mapping[str, Refusal] = {
    "fullprec": Refusal(reason="unquantized weights are the recipe none", mend="set quantization.recipe to none"),
    "fp16": Refusal(
        reason="16-bit weights are the recipe none",
        mend="set quantization.recipe to none and model.dtype to float16",
    ),
    "bf16": Refusal(
        reason="16-bit weights are the recipe none",
        mend="set quantization.recipe to none and model.dtype to bfloat16",
    ),
}


def format_for(method: str) -> Format:
    """The table's entry for `method`; SpecError for what is none."""
    found = FORMATS.get(method)
    if found is None:
        refusal = refused_name(method)
        if refusal is not None:
            raise SpecError(f"quantization method {method!r}: {refusal.reason}", mend=refusal.mend)
        raise SpecError(f"there is no quantization method {method!r}", mend=f"name one of: {', '.join(FORMATS)}")
    return found


def refused_name(name: str) -> Refusal | None:
    """What to say of a name that people try and that is no recipe; None for a name that means nothing."""
    plain = "".join(letter for letter in name.lower() if letter.isalnum())
    return _REFUSED.get(_ALIASES.get(plain, plain)) or _ALSO.get(plain)


def kv_effect(method: str, kv_cache: KvCache) -> KvCombination:
    """What `kv_cache` does to an engine with weights in `method`."""
    return format_for(method).kv[kv_cache]


def kv_problem(method: str, kv_cache: KvCache) -> str | None:
    """Why `kv_cache` cannot be combined with `method` at all, if so; see `kv_effect` for what it merely costs."""
    found = kv_effect(method, kv_cache)
    return found.reason if found.effect == "refused" else None


def sm_problem(method: str, sm: int, kv_cache: KvCache = "auto") -> str | None:
    """Why an engine of `method` with `kv_cache` does not run on a GPU of compute capability `sm` (as 89), if so."""
    entry = format_for(method)
    if sm < entry.min_sm:
        return f"{method} needs sm_{entry.min_sm} or newer, the GPU is sm_{sm}"
    if entry.is_integer and sm in NO_INTEGERS:
        return f"{method} is rejected by TensorRT-LLM on sm_100 to sm_119, the GPU is sm_{sm}"
    if kv_cache == "fp8" and sm < ADA:
        return f"an FP8 KV cache needs sm_{ADA} or newer, the GPU is sm_{sm}"
    if kv_cache == "int8" and sm in NO_INTEGERS:
        return f"an INT8 KV cache is rejected by TensorRT-LLM on sm_100 to sm_119, the GPU is sm_{sm}"
    return None


def next_recipe(method: str, sm: int | None = None) -> Method | None:
    """The recipe to try when the accuracy of `method` is not enough, on a GPU of `sm` where that is known."""
    for name in format_for(method).next_recipes:
        if sm is None or sm_problem(name, sm) is None:
            return name
    return None


def methods_for(sm: int) -> tuple[Method, ...]:
    """The methods that run on a GPU of compute capability `sm`."""
    return tuple(entry.name for entry in FORMATS.values() if sm_problem(entry.name, sm) is None)
