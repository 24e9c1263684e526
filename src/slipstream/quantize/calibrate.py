"""Runs calibration samples through a model, saying how far it is and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slipstream.formats import Method
from slipstream.progress import Reporter
from slipstream.quantize.batches import batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Samples = Sequence[Sequence[int]]
# How often ModelOpt 0.47 runs the samples: AWQ first collects scales, then tries each of its alphas, then takes ranges.
PASSES: dict[Method, int] = {"none": 1, "int8_wo": 1, "int8_sq": 1, "fp8": 1, "nvfp4": 1, "int4_awq": 2, "w4a8_awq": 3}


@dataclass(slots=True, kw_only=True)
class CalibrationLoop:
    """What ModelOpt calls to run the samples, once per pass."""

    samples: Samples
    passes: int
    report: Reporter
    what: str = "calibrating"
    started_s: float = field(default_factory=time.monotonic)
    passes_begun: int = 0

    def __call__(self, model: PreTrainedModel) -> None:
        import torch

        groups = batches(self.samples)
        self.passes_begun += 1
        self.passes = max(self.passes, self.passes_begun)
        with torch.inference_mode():
            for done, batch in enumerate(groups):
                self._say(done, len(groups))
                model(torch.tensor(batch, device=model.device), use_cache=False, logits_to_keep=1)

    def _say(self, done: int, groups: int) -> None:
        fraction = (self.passes_begun - 1 + done / groups) / self.passes
        left = remaining(time.monotonic() - self.started_s, fraction)
        of_passes = f", pass {self.passes_begun} of {self.passes}" if self.passes > 1 else ""
        self.report(f"{self.what}{of_passes}{left}", fraction)


def remaining(elapsed_s: float, fraction: float) -> str:
    """`, about 3 min left`, once enough is done to tell."""
    return f", about {remaining_time(elapsed_s / fraction * (1 - fraction))} left" if fraction >= 0.05 else ""


def remaining_time(seconds: float) -> str:
    """`40 s`, `3 min` or `1.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
