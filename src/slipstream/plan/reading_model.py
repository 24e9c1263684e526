"""Reads the model field: which model, which quantization, how long a context."""

from __future__ import annotations

import re

from slipstream.errors import SpecError
from slipstream.plan.catalogue import Model, find_model, known_model, models
from slipstream.plan.inputs import ModelInput
from slipstream.plan.understanding import Understanding, clipped
from slipstream.spec_file import did_you_mean

_LONGEST_NAME = 7  # words
_FORMATS = (
    (r"\bnvfp4\b|\bfp4\b", "nvfp4"),
    (r"\bmxfp4\b", "mxfp4"),
    (r"\bfp8\b|\be4m3\b", "fp8"),
    (r"\bawq\b", "int4_awq"),
    (r"\bgptq\b", "int4_awq"),
    (r"\bsmooth ?quant\b|\bw8a8\b", "int8_sq"),
    (r"\bw4a16\b|\bint4\b|\b4[- ]?bits?\b", "int4_awq"),
    (r"\bw8a16\b|\bint8\b|\b8[- ]?bits?\b", "int8_wo"),
    (r"\bb?fp?16\b|\b(?:b?float|half)[- ]?(?:16|precision)\b|\b16[- ]?bits?\b", "fp16"),
)
_UNSERVABLE = re.compile(r"\b(gguf|ggml|q[2-8]_k(?:_[sml])?|exl2|bitsandbytes|nf4|hqq)\b", re.IGNORECASE)
_CONTEXT = re.compile(
    r"(\d[\d,.]*\s*[km]?)(?:[- ]?tokens?)?[- ]*(?:long[- ])?context"
    r"|context(?: window| length)?\s*(?:of|:|=)?\s*(\d[\d,.]*\s*[km]?)",
    re.IGNORECASE,
)


def read_model_text(text: str, notes: Understanding) -> ModelInput:
    """The model that the text names. Raises SpecError when none of the catalogue is named."""
    text = clipped(text)
    words, model = _find(text)
    notes.took("model", model.name, words)
    unservable = _UNSERVABLE.search(text)
    if unservable:
        raise SpecError(
            f"model: {unservable[0]} is a format that TensorRT-LLM does not load",
            mend="name fp16, fp8, int8_wo, int8_sq, int4_awq, nvfp4 or mxfp4, or none",
        )
    rest = text.replace(words, " ")
    return ModelInput(
        name=model.source, weights=_weights(rest, model, notes), context_tokens=_context(rest, model, notes), draft=None
    )


def _find(text: str) -> tuple[str, Model]:
    """The longest run of words that names a model, and the model."""
    if text.endswith(".json") or "/" in text.split(" ", maxsplit=1)[0]:
        first = text.split(" ", maxsplit=1)[0].rstrip(",.;")
        return first, find_model(first)
    pieces = re.findall(r"[^\s,;()]+", text)
    for length in range(min(_LONGEST_NAME, len(pieces)), 0, -1):
        for start in range(len(pieces) - length + 1):
            run = pieces[start : start + length]
            if any(_is_format(piece) for piece in run) or re.fullmatch(r"\d+k", run[-1], re.IGNORECASE):
                continue  # `Mixtral 8x22B FP16` names a model and a format, `Llama 2 70B, 4k` a model and a context
            model = known_model(" ".join(run).rstrip("."))
            if model is not None:
                words = re.search(r"[\s,;()]+".join(map(re.escape, run)), text)
                return (words[0] if words else " ".join(run)).rstrip("."), model
    raise SpecError(
        f"model: no model of the catalogue is named in {text!r}{did_you_mean(text, [m.name for m in models()])}",
        mend="name one of `slipstream plan --list`, or give the path of a config.json",
    )


def _is_format(piece: str) -> bool:
    return any(re.fullmatch(pattern, piece.rstrip("."), re.IGNORECASE) for pattern, _ in _FORMATS)


def _weights(text: str, model: Model, notes: Understanding) -> str | None:
    found = [(match[0], name) for pattern, name in _FORMATS if (match := re.search(pattern, text, re.IGNORECASE))]
    if not found:
        if model.name.startswith("GPT-OSS"):
            notes.assumed("Weights: MXFP4 experts, as the model is published.")
            return "mxfp4"
        notes.assumed("Weights: no quantization is named, so every format that the GPU computes with is tried.")
        return None
    words, name = found[0]
    others = [(other, its) for other, its in found[1:] if its != name]
    if others:
        both = " ".join(sorted({words, *(other for other, _ in others)}, key=text.find))
        notes.resolved(_resolution(both, name, others))
    notes.took("weights", name, words)
    return name


def _resolution(both: str, name: str, others: list[tuple[str, str]]) -> str:
    if name == "int4_awq" and any(its == "int8_wo" for _, its in others):
        return (
            f'"{both}": AWQ is a 4-bit weight-only method in ModelOpt and TensorRT-LLM, there is no 8-bit AWQ.'
            " Planned as int4_awq, because the method is the more specific word; for 8-bit weights write INT8"
            " weight-only, which takes about twice the weight memory (both are compared under the alternatives)."
        )
    rest = ", ".join(f"{its} ({words})" for words, its in others)
    return f'"{both}": names more than one format. Planned as {name}, the most specific; set aside: {rest}.'


def _context(text: str, model: Model, notes: Understanding) -> int | None:
    match = _CONTEXT.search(text)
    if match is None:
        notes.assumed("Context window: as long as the workload's prompts and replies need.")
        return None
    written = (match[1] or match[2]).lower().replace(",", "").strip()
    # A context of 8K is 8,192 tokens, of 128K 131,072: powers of two, as model cards mean it.
    factor = {"k": 1024, "m": 1024 * 1024}.get(written[-1], 1)
    tokens = int(float(written.rstrip("km").strip() or 0) * factor)
    notes.took("context_tokens", tokens, match[0])
    if tokens > model.shape.max_context:
        notes.resolved(
            f'"{match[0]}": {model.name} was trained for {model.shape.max_context} tokens. Planned with that limit.'
        )
        return model.shape.max_context
    return tokens
