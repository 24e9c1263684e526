"""The comparison of recipes as a Markdown page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slipstream.quantize.accuracy.report import AccuracyReport, ChoiceAccuracy
from slipstream.quantize.accuracy.stored_bits import StoredBits


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRow:
    """One recipe's checkpoint: what it costs to make, what it takes and what it keeps."""

    recipe: str
    accuracy: AccuracyReport
    violations: tuple[str, ...]  # limits of the recipe that are not kept to
    alpha: float | None  # SmoothQuant's
    linears: int
    excluded_linears: int
    checkpoint_bytes: int
    bits: StoredBits
    peak_bytes: int  # resident memory of the process that quantized and exported
    cpu_s: float  # of the same

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"accuracy": self.accuracy.document()}


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRow:
    """A recipe that this model cannot take."""

    recipe: str
    reason: str

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


Row = RecipeRow | RefusedRow
_COLUMNS = (
    "KL (nats per token) and top-1 compare next-token distributions with the unquantized model's, with ModelOpt's"
    " quantizers in the float32 model. *bits* counts weights and scales of the linear layers as the engine holds them;"
    " *MB* the checkpoint's weights, of which embeddings and lm_head stay in 16 bits (`int8_wo`: all of them,"
    " TensorRT-LLM quantizes when it loads). *peak* and *CPU* are of the process that quantizes and exports, imports"
    " included. *gate*: the limits in the recipe, here applied to every text."
)
_CHOICES = (
    "questions made from held-out articles: which of four sentences goes on? The answer is the one most likely per"
    " byte. Intervals are 95 %: Wilson's for the share, Agresti and Min's for the change in percentage points on the"
    " same questions; p is McNemar's exact test."
)


def markdown(title: str, rows: Sequence[Row], *, command: str, plot: str, machine: Mapping[str, object]) -> str:
    """The page: a table of what was measured, how to read it, and what was refused."""
    measured = [row for row in rows if isinstance(row, RecipeRow)]
    refused = [row for row in rows if isinstance(row, RefusedRow)]
    lines = [
        f"# {title}",
        "",
        f"Written by `{command}` on {machine['date']}, {machine['cores']} cores, no GPU; do not edit.",
        "",
        *_tables(measured),
        "",
        f"![bits per weight against KL divergence]({plot})",
        "",
        *_legend(measured),
    ]
    if refused:
        lines += ["", "Refused for this model:", "", *(f"- `{row.recipe}`: {row.reason}" for row in refused)]
    return "\n".join(lines) + "\n"


def _tables(rows: Sequence[RecipeRow]) -> list[str]:
    """What is kept, then what it costs."""
    if not rows:
        return ["No recipe fits this model."]
    texts = [text.text for text in rows[0].accuracy.texts]
    kept = ["recipe", "bits", *(f"{name}, {text}" for text in texts for name in ("perplexity", "KL", "top-1")), "gate"]
    costs = ["recipe", "MB", *(f"KL p99, {text}" for text in texts), "choices", "against base", "peak GiB", "CPU-s"]
    return [*_table(kept, map(_kept_cells, rows)), "", *_table(costs, map(_cost_cells, rows))]


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_line(headings), _line(["---"] * len(headings)), *map(_line, rows)]


def _kept_cells(row: RecipeRow) -> list[str]:
    cells = [f"`{row.recipe}`", f"{row.bits.in_engine:.2f}"]
    for text in row.accuracy.texts:
        cells += [
            f"{text.perplexity_after:.2f} ({text.perplexity_increase_percent:+.2f} %)",
            f"{text.kl_mean:.4f}",
            f"{100 * text.top1_agreement:.1f} %",
        ]
    return [*cells, "kept aside" if row.violations else "passed"]


def _cost_cells(row: RecipeRow) -> list[str]:
    return [
        f"`{row.recipe}`",
        f"{row.checkpoint_bytes / 1e6:.0f}",
        *(f"{text.kl_p99:.3f}" for text in row.accuracy.texts),
        *_choice_cells(row.accuracy.choices),
        f"{row.peak_bytes / 2**30:.2f}",
        f"{row.cpu_s:.0f}",
    ]


def _choice_cells(choices: ChoiceAccuracy | None) -> list[str]:
    if choices is None:
        return ["–", "–"]
    share, change = choices.after_interval, choices.difference_interval
    difference = f"{100 * choices.difference:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f})"
    return [
        f"{100 * choices.after:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})",
        f"{difference}, p = {choices.p_value:.2g}",
    ]


def _legend(rows: Sequence[RecipeRow]) -> list[str]:
    if not rows:
        return []
    texts = " and ".join(f"{text.tokens} tokens of {text.text}" for text in rows[0].accuracy.texts)
    paragraphs = [f"Measured on {texts}, which calibration has not seen. {_COLUMNS}"]
    choices = rows[0].accuracy.choices
    if choices is not None:
        paragraphs.append(f"*choices*: {choices.items} {_CHOICES} A guess is right in {100 * choices.chance:.0f} %.")
    paragraphs += [_details(row) for row in rows if _details(row)]
    filled = [textwrap.fill(paragraph, 120, break_on_hyphens=False) for paragraph in paragraphs]
    return "\n\n".join(filled).split("\n")


def _details(row: RecipeRow) -> str:
    """What the table has no column for."""
    excluded = (
        f"leaves {row.excluded_linears} of {row.linears} linear layers in 16 bits" if row.excluded_linears else ""
    )
    alpha = "" if row.alpha is None else f"has alpha {row.alpha:g}"
    aside = f"is beyond its limits: {'; '.join(row.violations)}" if row.violations else ""
    parts = [part for part in (alpha, excluded, aside) if part]
    return f"`{row.recipe}` {', '.join(parts)}." if parts else ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
