"""Quantization by ModelOpt: quantizers in the model, calibrated, with the scales that the export will write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.formats import KvCache
from slipstream.interrupts import deferred_interrupts
from slipstream.progress import Reporter
from slipstream.quantize.calibrate import PASSES, CalibrationLoop, Samples
from slipstream.quantize.fused_scales import unite_scales
from slipstream.quantize.hf_model import ExportDtype, quiet
from slipstream.quantize.modelopt_config import modelopt_config
from slipstream.quantize.nvfp4_cpu import allow_nvfp4_on_cpu
from slipstream.quantize.recipe_schema import RecipeFile

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def quantize_model(
    model: PreTrainedModel,
    settings: RecipeFile,
    kv_cache: KvCache,
    samples: Samples,
    report: Reporter,
    *,
    dtype: ExportDtype,
    alpha: float | None = None,
    resume_directory: Path | None = None,
) -> None:
    """Put calibrated quantizers into `model`, which then computes as the exported checkpoint does.

    `dtype` is the 16-bit type of what is not quantized; `alpha` is SmoothQuant's, for a recipe that searches it. With
    `resume_directory` the layers are calibrated one after another and kept there, so that the same call after an
    interruption goes on at the layer where it was; the scales are the same. Nothing happens for `none` with a 16-bit KV
    cache.
    """
    with deferred_interrupts():
        import modelopt.torch.quantization as mtq

    config = modelopt_config(settings, kv_cache, alpha=alpha, resume_directory=resume_directory)
    if config is None:
        return
    allow_nvfp4_on_cpu()
    passes = PASSES[settings.method] if resume_directory is None else model.config.num_hidden_layers
    what = "calibrating" if alpha is None else f"calibrating with alpha {alpha:g}"
    loop = CalibrationLoop(samples=samples, passes=passes, report=report, what=what)
    with quiet(), _without_layer_bar():
        mtq.quantize(model, config, loop)
        unite_scales(model, settings.method, kv_cache, dtype)


@contextmanager
def float_weights(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the linear layers of `model` are not quantized; KV cache quantizers stay.

    For W8A16, whose weights TensorRT-LLM quantizes itself when it loads them.
    """
    quantizers = [module for name, module in quantizers_of(model) if name.endswith("weight_quantizer")]
    were_enabled = [quantizer for quantizer in quantizers if quantizer.is_enabled]
    for quantizer in were_enabled:
        quantizer.disable()
    try:
        yield
    finally:
        for quantizer in were_enabled:
            quantizer.enable()


@contextmanager
def unquantized(model: PreTrainedModel) -> Iterator[None]:
    """Within the block `model` computes in floats: disabled quantizers still undo SmoothQuant's scaling of weights."""
    were_enabled = [quantizer for _, quantizer in quantizers_of(model) if quantizer.is_enabled]
    for quantizer in were_enabled:
        quantizer.disable()
    try:
        yield
    finally:
        for quantizer in were_enabled:
            quantizer.enable()


def quantized_layers(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers whose weights are quantized."""
    names = (name.partition(".weight_quantizer")[0] for name, module in quantizers_of(model) if module.is_enabled)
    return sorted({name for name in names if not name.endswith("quantizer")})


def quantizers_of(model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    """Every quantizer in `model`, each stage of a row of them alone."""
    from modelopt.torch.quantization.nn import TensorQuantizer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, TensorQuantizer))


@contextmanager
def _without_layer_bar() -> Iterator[None]:
    """ModelOpt's layer-by-layer calibration draws a bar of its own; the report says how far it is."""
    from modelopt.torch.quantization import model_calib

    bar = model_calib.tqdm
    model_calib.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        model_calib.tqdm = bar
