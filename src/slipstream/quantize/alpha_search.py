"""The search for SmoothQuant's alpha: each is calibrated, and the one that changes predictions least wins."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipstream.formats import KvCache
from slipstream.progress import Reporter
from slipstream.quantize.batches import batches
from slipstream.quantize.calibrate import Samples
from slipstream.quantize.hf_model import ExportDtype
from slipstream.quantize.modelopt_quantize import quantize_model, unquantized
from slipstream.quantize.recipe_schema import RecipeFile

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COMPARED_SAMPLES = 8  # of the calibration's: alphas differ by far more than texts


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaSearch:
    """What each alpha came to."""

    alpha: float  # the best
    kl_by_alpha: Mapping[str, float]  # mean KL divergence on the first samples of the calibration, in nats


def search_alpha(
    load: Callable[[], PreTrainedModel],
    settings: RecipeFile,
    kv_cache: KvCache,
    samples: Samples,
    report: Reporter,
    *,
    dtype: ExportDtype,
) -> AlphaSearch:
    """Quantize a fresh model of `load` with every alpha of the recipe; one model at a time is in memory."""
    found = {}
    for alpha in settings.alpha_search or ():
        model = load()
        quantize_model(model, settings, kv_cache, samples, report, dtype=dtype, alpha=alpha)
        found[alpha] = _mean_kl(model, samples[:COMPARED_SAMPLES], report, f"measuring alpha {alpha:g}")
        del model
        gc.collect()  # its quantizers hold it in cycles: without this two models are in memory
    best = min(found, key=lambda alpha: found[alpha])
    return AlphaSearch(alpha=best, kl_by_alpha={f"{alpha:g}": kl for alpha, kl in found.items()})


def _mean_kl(model: PreTrainedModel, samples: Samples, report: Reporter, what: str) -> float:
    """Of the unquantized model's next-token distributions against the quantized one's."""
    import torch
    from torch.nn.functional import kl_div, log_softmax

    total, tokens = 0.0, 0
    with torch.inference_mode():
        for done, batch in enumerate(groups := batches(samples)):
            report(what, done / len(groups))
            ids = torch.tensor(batch, device=model.device)
            after = log_softmax(model(ids, use_cache=False).logits, dim=-1)
            with unquantized(model):
                before = log_softmax(model(ids, use_cache=False).logits, dim=-1)
            total += float(kl_div(after, before, reduction="sum", log_target=True))
            tokens += ids.numel()
    return total / tokens
