"""Every recipe on one model: accuracy, size, memory and time, each recipe in a process of its own."""

from __future__ import annotations

import json
import resource
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from slipstream.errors import SlipstreamError, SpecError
from slipstream.progress import Reporter, reporting
from slipstream.quantize.accuracy import BaseMeasurement, build_items, judge, measure_against, measure_base
from slipstream.quantize.accuracy.answers import tokenize
from slipstream.quantize.accuracy.measure import Samples
from slipstream.quantize.accuracy.plot import draw
from slipstream.quantize.accuracy.stored_bits import stored_bits
from slipstream.quantize.accuracy.table import RecipeRow, RefusedRow, Row, markdown
from slipstream.quantize.corpora import CORPORA, packaged_text
from slipstream.quantize.export import export_checkpoint
from slipstream.quantize.hf_model import load_model
from slipstream.quantize.measure import recipe_samples
from slipstream.quantize.modelopt_quantize import quantize_model
from slipstream.quantize.planning import plan_export
from slipstream.quantize.recipes import load_recipe
from slipstream.quantize.tuning import tune
from slipstream.text.tokenizer import Tokenizer

RESULTS = Path("perf/results/quantization.json")
PAGE = Path("docs/quantization-accuracy.md")
PLOT = Path("docs/quantization-accuracy.svg")

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is compared, and on how much text."""

    model_directory: Path
    recipes_directory: Path
    dtype: str
    samples: int = 16  # of each corpus
    tokens_per_sample: int = 256
    choices: int = 500  # questions; 0: none


def compare_recipes(comparison: Comparison, recipes: Sequence[str], report: Reporter) -> list[Row]:
    """A row for each of `recipes`, in their order; what the model's shapes do not allow is a row with the reason."""
    report("measuring the unquantized model")
    base = _in_own_process(partial(_measure_base, comparison))
    rows: list[Row] = []
    for number, recipe in enumerate(recipes):
        report(f"recipe {recipe}", number / len(recipes))
        rows.append(_in_own_process(partial(_measure_recipe, comparison, recipe, base)))
    return rows


def write_results(
    root: Path, comparison: Comparison, rows: Sequence[Row], *, name: str, command: str, machine: Mapping[str, object]
) -> None:
    """Write the JSON, the page and the plot into the project at `root`."""
    settings = {
        field: value
        for field, value in asdict(comparison).items()
        if field not in {"model_directory", "recipes_directory"}
    }
    document = {
        "deployment": name,
        "settings": settings,
        "machine": machine,
        "rows": [row.document() for row in rows],
    }
    (root / RESULTS).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    page = markdown(f"Quantization recipes on {name}", rows, command=command, plot=PLOT.name, machine=machine)
    (root / PAGE).write_text(page, encoding="utf-8")
    draw(rows, root / PLOT)


def _measure_base(comparison: Comparison) -> BaseMeasurement:
    tokenizer = Tokenizer.load(comparison.model_directory)
    texts = {name: packaged_text(name).held_out for name in CORPORA}
    items = build_items(texts["wikipedia"], comparison.choices) if comparison.choices else []
    plan = plan_export(
        comparison.model_directory,
        recipe=load_recipe("none", comparison.recipes_directory),
        kv_cache="auto",
        tp_size=1,
        pp_size=1,
        dtype=comparison.dtype,
    )
    samples: dict[str, Samples] = {name: _spread(tokenizer, text, comparison) for name, text in texts.items()}
    model = load_model(comparison.model_directory, plan.dtype)
    with reporting("base") as report:
        return measure_base(model, samples, report, tokenize(items, tokenizer))


def _spread(tokenizer: Tokenizer, text: str, comparison: Comparison) -> list[list[int]]:
    """Stretches of `text` at even distances, so that they come from many documents."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    length, samples = comparison.tokens_per_sample, comparison.samples
    step = (len(ids) - length) // max(1, samples - 1)
    if step < length:
        raise SlipstreamError(
            f"comparing recipes: the held-out text has {len(ids)} tokens, {samples} x {length} were asked for",
            mend="compare on fewer or shorter samples",
        )
    return [ids[number * step : number * step + length] for number in range(samples)]


def _measure_recipe(comparison: Comparison, name: str, base: BaseMeasurement) -> Row:
    """Quantize, export and measure; memory and time are read before the measuring begins."""
    recipe = load_recipe(name, comparison.recipes_directory)
    settings, directory = recipe.settings, comparison.model_directory
    try:
        plan = plan_export(directory, recipe=recipe, kv_cache="auto", tp_size=1, pp_size=1, dtype=comparison.dtype)
    except SpecError as error:
        return RefusedRow(recipe=name, reason=error.message)
    samples = recipe_samples(recipe, directory, calibrates=plan.format.needs_calibration, evaluates=False).calibration
    load = partial(load_model, directory, plan.dtype)
    with reporting(name) as report, tempfile.TemporaryDirectory() as checkpoint:
        tuned = tune(load, plan, settings, samples, report)
        model = load()
        quantize_model(model, tuned.settings, "auto", samples, report, dtype=plan.dtype)
        report("exporting the checkpoint")
        export_checkpoint(model, tuned.plan, Path(checkpoint))
        used = resource.getrusage(resource.RUSAGE_SELF)
        peak = _peak_bytes()
        accuracy = measure_against(base, model, report)
        return RecipeRow(
            recipe=name,
            accuracy=accuracy,
            violations=tuple(map(str, judge(accuracy, settings.limits))),
            alpha=tuned.settings.alpha,
            linears=_linear_layers(model),
            excluded_linears=len(tuned.plan.excluded),
            checkpoint_bytes=sum(path.stat().st_size for path in Path(checkpoint).glob("rank*.safetensors")),
            bits=stored_bits(Path(checkpoint)),
            peak_bytes=peak,
            cpu_s=round(used.ru_utime + used.ru_stime, 1),
        )


def _linear_layers(model: object) -> int:
    """Those that a recipe quantizes: all but lm_head."""
    import torch

    assert isinstance(model, torch.nn.Module)
    names = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return sum(not name.endswith("lm_head") for name in names)


def _peak_bytes() -> int:
    """Most resident memory of this process; getrusage's figure would begin with that of its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("Linux always says VmHWM")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """An error's parts, which travel between processes where the error itself does not."""

    message: str
    mend: str


def _in_own_process(work: Callable[[], Result]) -> Result:
    """Run `work` in a fresh interpreter, whose memory and time are then its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        try:
            found = pool.submit(_guarded, work).result()
        except BrokenProcessPool as error:
            raise SlipstreamError(
                "comparing recipes: the process that measures was killed, as a machine out of memory does",
                mend="free some memory, or leave out the last recipe that was named, with --recipes",
            ) from error
    if isinstance(found, _Failure):
        raise SlipstreamError(found.message, mend=found.mend)
    return found


def _guarded(work: Callable[[], Result]) -> Result | _Failure:
    try:
        return work()
    except SlipstreamError as error:
        return _Failure(message=error.message, mend=error.mend)
