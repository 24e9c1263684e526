"""INT8 weight-only quantization by ModelOpt: one scale per output row of every linear layer but lm_head."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slipstream.progress import Reporter
from slipstream.quantize.hf_model import ExportDtype, load_model, quiet
from slipstream.quantize.perplexity import batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RowAmax = dict[str, NDArray[np.float32]]  # linear layer's name in the HF model → largest magnitude of each output row


def quantize_int8_rows(model: PreTrainedModel, samples: Sequence[Sequence[int]], report: Reporter) -> RowAmax:
    """Put ModelOpt's calibrated INT8 weight quantizers into `model`, which then computes as the quantized one does.

    The scales depend on the weights alone; `samples` run through the model all the same, as for every recipe.
    """
    import modelopt.torch.quantization as mtq
    import torch

    def run_samples(model: PreTrainedModel) -> None:
        with torch.inference_mode():
            for done, batch in enumerate(groups := batches(samples)):
                report("calibrating", done / len(groups))
                model(torch.tensor(batch), use_cache=False, logits_to_keep=1)

    with quiet():
        mtq.quantize(model, mtq.INT8_WEIGHT_ONLY_CFG, run_samples)
    return {
        name.removesuffix(".weight_quantizer"): module.amax.detach().float().flatten().numpy()
        for name, module in model.named_modules()
        if name.endswith(".weight_quantizer") and module.is_enabled
    }


def calibrate_int8_rows(model_directory: Path, *, dtype: ExportDtype, report: Reporter) -> RowAmax:
    """ModelOpt's row amax for the model in `model_directory`; the int8 scale of a row is amax / 127."""
    return quantize_int8_rows(load_model(model_directory, dtype), [], report)


def digest(amax: RowAmax) -> str:
    """SHA-256 over the names and values of `amax`, which shows that two runs calibrated alike."""
    sha = hashlib.sha256()
    for name, values in sorted(amax.items()):
        sha.update(name.encode() + b"\0" + values.astype("<f4").tobytes())
    return sha.hexdigest()
