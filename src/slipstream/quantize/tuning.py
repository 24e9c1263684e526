"""What a recipe leaves to be found on the model itself: layers with outliers to leave out, and SmoothQuant's alpha."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slipstream.progress import Reporter
from slipstream.quantize.alpha_search import AlphaSearch, search_alpha
from slipstream.quantize.calibrate import Samples
from slipstream.quantize.export import ExportPlan
from slipstream.quantize.outliers import exclude_outliers
from slipstream.quantize.recipe_schema import RecipeFile

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A recipe and a plan with nothing left to be found."""

    settings: RecipeFile
    plan: ExportPlan
    search: AlphaSearch | None  # None: the recipe names alpha, or has none


def tune(
    load: Callable[[], PreTrainedModel], plan: ExportPlan, settings: RecipeFile, samples: Samples, report: Reporter
) -> Tuned:
    """Find on fresh models of `load`, one at a time in memory, what `settings` leaves open."""
    if settings.exclude_outliers is not None:
        report("loading the model")
        model = load()
        found = exclude_outliers(model, samples, settings.exclude_outliers, pp_size=plan.pp_size, report=report)
        del model
        gc.collect()
        settings = settings.model_copy(update={"exclude": (*settings.exclude, *found)})
        plan = replace(plan, excluded=plan.excluded | frozenset(found))
    if settings.alpha_search is None:
        return Tuned(settings=settings, plan=plan, search=None)
    search = search_alpha(load, settings, plan.kv_cache, samples, report, dtype=plan.dtype)
    settings = settings.model_copy(update={"alpha": search.alpha, "alpha_search": None})
    return Tuned(settings=settings, plan=plan, search=search)
