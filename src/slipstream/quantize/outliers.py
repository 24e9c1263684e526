"""Linear layers whose input has a few tokens far larger than all others.

A static scale per tensor, as W8A8 has, must reach the largest of them, and rounds everything else to nothing. Language
models have such layers: the first token of a text drives some MLPs to hundreds of times the usual size ("massive
activations", Sun et al. 2024). Leaving those few layers in 16 bits costs little and saves the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slipstream.progress import Reporter
from slipstream.quantize.batches import batches
from slipstream.quantize.calibrate import Samples
from slipstream.quantize.exclusions import ATTENTION, MLP
from slipstream.quantize.recipe_schema import Outliers

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

# Layers that TensorRT-LLM fuses with no other, so that one can be left out alone.
_ALONE = (ATTENTION[3], MLP[2])


def exclude_outliers(
    model: PreTrainedModel, samples: Samples, limits: Outliers, *, pp_size: int, report: Reporter
) -> tuple[str, ...]:
    """Names of the linear layers of the unquantized `model` to leave in 16 bits, worst first.

    A layer counts where the largest token of `samples` is `limits.ratio` times the median one; with pipeline stages the
    same layers of every stage go together, as a checkpoint has one list for all. Never more than `limits.max_share` of
    the model's linear layers.
    """
    return choose(token_ratios(model, samples, report), limits, pp_size=pp_size, layers=model.config.num_hidden_layers)


def choose(ratios: Mapping[str, float], limits: Outliers, *, pp_size: int, layers: int) -> tuple[str, ...]:
    """The layers of `ratios` (name → largest token / median token) that are left out."""
    budget = int(limits.max_share * layers * len((*ATTENTION, *MLP)))
    same_in_every_stage: dict[tuple[int, str], list[str]] = defaultdict(list)
    for name in ratios:
        _, _, layer, part = name.split(".", 3)
        same_in_every_stage[int(layer) % (layers // pp_size), part].append(name)
    chosen: list[str] = []
    for group in sorted(same_in_every_stage.values(), key=lambda names: -max(ratios[name] for name in names)):
        is_outlier = max(ratios[name] for name in group) >= limits.ratio
        if is_outlier and len(chosen) + len(group) <= budget:
            chosen += group
    return tuple(chosen)


def token_ratios(model: PreTrainedModel, samples: Samples, report: Reporter) -> dict[str, float]:
    """By layer, the largest magnitude of its input over the median of its tokens' largest magnitudes."""
    import torch

    with _watched(model) as seen, torch.inference_mode():
        for done, batch in enumerate(groups := batches(samples)):
            report("looking for outliers", done / len(groups))
            model(torch.tensor(batch, device=model.device), use_cache=False, logits_to_keep=1)
    whole = {name: torch.cat(values) for name, values in seen.items()}
    return {name: float(values.max() / values.median().clamp(min=1e-9)) for name, values in whole.items()}


@contextmanager
def _watched(model: PreTrainedModel) -> Iterator[dict[str, list[Tensor]]]:
    """Within the block, the largest magnitude of every token that enters each of the watched layers."""
    seen: dict[str, list[Tensor]] = defaultdict(list)

    def watch(name: str, layer: nn.Module) -> object:
        def note(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name].append(inputs[0].abs().amax(-1).flatten().float().cpu())

        return layer.register_forward_pre_hook(note)

    hooks = [watch(name, layer) for name, layer in model.named_modules() if name.endswith(_ALONE)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()  # type: ignore[attr-defined]
