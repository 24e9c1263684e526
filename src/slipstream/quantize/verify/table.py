"""The verification table: every format in every cut, executed; docs/verification.md and its data."""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from slipstream.errors import SlipstreamError
from slipstream.formats import KvCache, Method
from slipstream.progress import Reporter
from slipstream.quantize.checkpoint import write_checkpoint
from slipstream.quantize.hf_model import compute_device
from slipstream.quantize.recipe_schema import Limits
from slipstream.quantize.recipes import Recipe, load_recipe
from slipstream.quantize.verify.check import verify_checkpoint
from slipstream.quantize.verify.findings import Verification
from slipstream.quantize.verify.synthetic import LLAMA, MIXTRAL, save_synthetic

METHODS: tuple[Method, ...] = ("none", "int8_wo", "int8_sq", "fp8", "int4_awq", "w4a8_awq", "nvfp4")
SAMPLES = 4  # of each recipe's calibration
KV_CACHES: tuple[tuple[Method, KvCache], ...] = (("fp8", "fp8"), ("nvfp4", "fp8"), ("int8_sq", "int8"))
_COLUMNS = (
    *("model", "recipe", "KV cache", "TP", "PP", "EP"),
    *("numbers equal", "layers exact", "layer error", "logit error", "KL", "ok"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One checkpoint to be made and verified."""

    model: str
    recipe: Method
    kv_cache: KvCache = "auto"
    tp: int = 1
    pp: int = 1
    ep: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a case; one that its shapes do not allow says why."""

    case: Case
    refused: str | None
    verification: Verification | None


def cases() -> Iterator[Case]:
    """The synthetic Llama and Mixtral, then SmolLM2-135M."""
    cuts = ((1, 1), (2, 1), (4, 1), (1, 2))
    for recipe in METHODS:
        yield from (Case(model="llama", recipe=recipe, tp=tp, pp=pp) for tp, pp in cuts)
    yield from (Case(model="llama", recipe=recipe, kv_cache=kv, tp=2, pp=2) for recipe, kv in KV_CACHES)
    yield from (Case(model="mixtral", recipe=recipe, tp=2, ep=2) for recipe in METHODS)
    yield Case(model="mixtral", recipe="fp8", kv_cache="fp8", tp=4, ep=2)
    for recipe in METHODS:
        yield from (Case(model="smollm2-135m", recipe=recipe, tp=tp, pp=pp) for tp, pp in ((1, 1), (3, 1), (1, 2)))
    yield from (Case(model="smollm2-135m", recipe=recipe, kv_cache=kv, tp=3) for recipe, kv in KV_CACHES)


def verification_rows(smollm2: Path, recipes: Path, report: Reporter) -> Iterator[Row]:
    """Make and verify every case; `smollm2` is its model directory, `recipes` the one of the YAML files."""
    with tempfile.TemporaryDirectory(prefix="slipstream-table-") as name:
        folder = Path(name)
        models = {"smollm2-135m": smollm2}
        for model, settings in (("llama", LLAMA), ("mixtral", MIXTRAL)):
            models[model] = save_synthetic(model, folder / model, settings)
            # Calibration text has to become ids below the vocabulary's size, no more.
            (models[model] / "tokenizer.json").write_text(json.dumps(_byte_tokenizer()), encoding="utf-8")
        for number, case in enumerate(cases()):
            recipe = quick(load_recipe(case.recipe, recipes))
            out = folder / str(number)
            yield _row(case, models[case.model], recipe, out, report)
            shutil.rmtree(out)


def quick(recipe: Recipe) -> Recipe:
    """`recipe` with little calibration, one alpha and no evaluation: what is shown is arithmetic, not accuracy."""
    settings = recipe.settings
    calibration = settings.calibration and settings.calibration.model_copy(update={"samples": SAMPLES})
    changes: dict[str, object] = {"calibration": calibration, "evaluation": None, "limits": Limits()}
    if settings.alpha_search is not None:
        changes |= {"alpha": settings.alpha_search[-1], "alpha_search": None}
    return replace(recipe, settings=settings.model_copy(update=changes), evaluation_text=None)


def _row(case: Case, model: Path, recipe: Recipe, out: Path, report: Reporter) -> Row:
    report(f"{case.model} {case.recipe} kv {case.kv_cache} tp {case.tp} pp {case.pp} ep {case.ep}")
    out.mkdir()
    try:
        write_checkpoint(
            model,
            out,
            recipe=recipe,
            kv_cache=case.kv_cache,
            tp_size=case.tp,
            pp_size=case.pp,
            moe_ep_size=case.ep,
            dtype="float16",
            report=report,
        )
    except SlipstreamError as refusal:
        return Row(case=case, refused=refusal.message, verification=None)
    finally:
        gc.collect()  # quantizers hold their model in cycles
    return Row(
        case=case,
        refused=None,
        verification=verify_checkpoint(out, model_dir=model, report=report, device=compute_device(0)),
    )


def as_json(rows: Sequence[Row], machine: Mapping[str, object]) -> str:
    """Everything, for machines."""
    return json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1) + "\n"


def as_markdown(rows: Sequence[Row], machine: Mapping[str, object]) -> str:
    """The page."""
    lines = [
        "# Verification",
        "",
        "Every format, cut into ranks, executed by `slipstream verify` and compared with ModelOpt's fake-quantized",
        "model on a single rank. What the figures mean, and what is tolerated, is in",
        "`src/slipstream/quantize/verify/logits.py`.",
        f"Recipes with {SAMPLES} samples of calibration: this is about arithmetic, not about accuracy. Written by",
        f"`python perf/verify_table.py` on {machine['date']}, {machine['accelerator']}; data in",
        "`perf/results/verification.json`.",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "|---" * len(_COLUMNS) + "|",
    ]
    return "\n".join([*lines, *(_line(row) for row in rows)]) + "\n"


def _line(row: Row) -> str:
    case, found = row.case, row.verification
    cells = [case.model, case.recipe, case.kv_cache, case.tp, case.pp, case.ep]
    if found is None:
        refused = (row.refused or "").partition(": ")[2] or row.refused
        return "| " + " | ".join(str(cell) for cell in [*cells, f"refused: {refused}", "", "", "", "", ""]) + " |"
    near = f" + {found.codes.within_rounding} near" if found.codes.within_rounding else ""
    cells += [
        f"{found.codes.equal} of {found.codes.compared}{near}",
        "" if found.exact_layers is None else found.exact_layers,
        _figure(found.max_layer_error),
        _figure(found.max_abs_logit_error),
        _figure(found.kl),
        "yes" if found.ok else "NO",
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1g}"


def _byte_tokenizer() -> dict[str, object]:
    """Every byte a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    document: dict[str, object] = json.loads(tokenizer.to_str())
    return document
