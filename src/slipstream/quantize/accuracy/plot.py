"""The plot of the comparison: bits per weight against KL divergence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slipstream.quantize.accuracy.table import RecipeRow, Row


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bits per weight against KL divergence, as SVG; the same rows give the same bytes."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "slipstream", "svg.fonttype": "none", "font.family": "sans-serif"}
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    measured = [row for row in rows if isinstance(row, RecipeRow) and row.accuracy.texts[0].kl_mean > 1e-6]
    for number, text in enumerate(measured[0].accuracy.texts if measured else ()):
        kl = [row.accuracy.texts[number].kl_mean for row in measured]
        axes.scatter([row.bits.in_engine for row in measured], kl, label=text.text, zorder=2)
    for row in measured:
        place = (row.bits.in_engine, row.accuracy.texts[0].kl_mean)
        axes.annotate(row.recipe, place, xytext=(7, -3), textcoords="offset points")
    axes.set(xlabel="bits per weight of the linear layers, scales included", ylabel="KL divergence, nats per token")
    axes.set_yscale("log")
    axes.margins(x=0.2)
    axes.grid(visible=True, which="both", linewidth=0.3)
    if measured:
        axes.legend(title="text")
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)
