"""What is wrong with a block of weights that is not what it should be: the fault by its name.

A row that is another row of the model still points in that row's direction, however it is scaled. So rows are matched
by the cosine of the angle between them; where every row is in its place, it is the scales that are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slipstream.quantize.verify.codes import Block, Difference
from slipstream.quantize.verify.findings import Kind
from slipstream.trtllm_checkpoint.ranks import Part
from slipstream.trtllm_checkpoint.shard import Float32Array

SAME = 0.9  # cosine from which on two rows are one; 4-bit rounding leaves 0.98 and more
LIKELY = 0.5  # cosine that rows of other weights do not have by chance
MOST = 0.8  # share of rows that have to agree on an explanation
FACTOR_MARGIN = 0.02  # a scale that is off by less is not called wrong for it
_NOISES = 8  # by how many typical deviations a scale is off before it is called wrong
_FEW = 0.5  # more than this share of scales cannot be told from noise
_ROWS_MATCHED = 256  # of a large block, evenly spread
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault's kind, and what was found in the place of what."""

    kind: Kind
    what: str
    strength: float = 0.0  # of a scale: logarithm of the largest factor, to choose between explanations


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What rows and columns might have been mistaken for: whole tensors of the Hugging Face model."""

    candidates: Mapping[str, Float32Array]  # the part's own tensor first, then its neighbours in the layer
    other_layers: Iterable[tuple[str, Float32Array]]  # the same tensor of other layers; read only if needed
    head_size: int
    is_cut_by_heads: bool


def diagnose(block: Block, weights: Float32Array, difference: Difference, part: Part, around: Surroundings) -> Fault:
    """Name the fault of `block`, whose codes differ from those of `weights`."""
    found = block.unfolded
    if _share_in_place(found, weights, difference.is_wrong) >= MOST:
        return _scale_fault(block, weights, difference) or _values_fault(difference)
    return (
        _row_fault(found, part, difference, around)
        or _column_fault(found, part, around)
        or _layer_fault(found, part, around)
        or _scale_fault_of_likely_rows(block, weights, difference)
        or _values_fault(difference)
    )


def _scale_fault_of_likely_rows(block: Block, weights: Float32Array, difference: Difference) -> Fault | None:
    """For rows that a few scales, far off, have turned away from where they should point."""
    in_place = _share_in_place(block.unfolded, weights, difference.is_wrong, least_cosine=LIKELY)
    return _scale_fault(block, weights, difference) if in_place >= MOST else None


def _share_in_place(
    found: Float32Array, weights: Float32Array, is_wrong: npt.NDArray[np.bool_], least_cosine: float = SAME
) -> float:
    """Of the rows with wrong codes, the share that points where it should."""
    wrong_rows = is_wrong.any(1)
    cosines = (_directions(found[wrong_rows]) * _directions(weights[wrong_rows])).sum(1)
    return float((cosines > least_cosine).mean()) if wrong_rows.any() else 1.0


def _row_fault(found: Float32Array, part: Part, difference: Difference, around: Surroundings) -> Fault | None:
    """Rows that belong elsewhere in the model."""
    rows = _sample(np.flatnonzero(difference.is_wrong.any(1)))
    directions = _directions(found[rows])
    for name, whole in around.candidates.items():
        columns = whole[:, part.source_columns.start : part.source_columns.stop]
        if columns.shape[1] != found.shape[1]:
            continue
        cosines = directions @ _directions(columns).T
        nearest = cosines.argmax(1)
        is_found = cosines.max(1) > SAME
        if is_found.mean() >= MOST:
            expected = np.array(part.source_rows)[rows]
            return _moved_rows(name, part, expected[is_found], nearest[is_found], around)
    return None


def _moved_rows(name: str, part: Part, expected: IntArray, nearest: IntArray, around: Surroundings) -> Fault | None:
    example = f"row {nearest[0]} of {name} lies where row {expected[0]} of {part.source} belongs"
    if name != part.source:
        return Fault(kind="swapped-rows", what=f"holds rows of {name} in the place of {part.source}: {example}")
    shifts = np.unique(nearest - expected)
    if len(shifts) > 1:
        if set(shifts) <= {-1, 1}:
            return Fault(
                kind="swapped-rows", what=f"rows are swapped in pairs, as by the wrong nibble order: {example}"
            )
        return Fault(kind="swapped-rows", what=f"{len(expected)} rows are not in their order: {example}")
    shift = int(shifts[0])
    if shift == 0:
        return None
    if around.is_cut_by_heads and shift % around.head_size:
        size = around.head_size
        return Fault(
            kind="cut-mid-head",
            what=f"is cut in the middle of a head: it begins at row {(part.source_rows.start + shift) % size} of head"
            f" {(part.source_rows.start + shift) // size}, which has {size} rows; {example}",
        )
    return Fault(kind="wrong-shard", what=f"holds the rows of another rank, {shift:+d} rows off: {example}")


def _column_fault(found: Float32Array, part: Part, around: Surroundings) -> Fault | None:
    """Columns that belong elsewhere: another rank's of a row-parallel layer, or out of their order."""
    whole = around.candidates[part.source][part.source_rows.start : part.source_rows.stop]
    columns = _sample(np.arange(found.shape[1]))
    cosines = _directions(found[:, columns].T) @ _directions(whole.T).T
    nearest, is_found = cosines.argmax(1), cosines.max(1) > SAME
    if is_found.mean() < MOST:
        return None
    shifts = np.unique((nearest - np.array(part.source_columns)[columns])[is_found])
    if not shifts.any():
        return None
    example = f"column {nearest[is_found][0]} lies where {part.source_columns[int(columns[is_found][0])]} belongs"
    if len(shifts) > 1:
        return Fault(kind="swapped-columns", what=f"columns are not in their order: {example}")
    if around.is_cut_by_heads and shifts[0] % around.head_size:
        return Fault(kind="cut-mid-head", what=f"is cut in the middle of a head of {around.head_size}: {example}")
    return Fault(kind="wrong-shard", what=f"holds the columns of another rank: {example}")


def _layer_fault(found: Float32Array, part: Part, around: Surroundings) -> Fault | None:
    for name, weights in around.other_layers:
        if name == part.source or weights.shape[0] < part.source_rows.stop:
            continue
        there = weights[part.source_rows.start : part.source_rows.stop]
        there = there[:, part.source_columns.start : part.source_columns.stop]
        if there.shape == found.shape and ((_directions(found) * _directions(there)).sum(1) > SAME).mean() >= MOST:
            return Fault(kind="wrong-layer", what=f"holds {name} in the place of {part.source}")
    return None


def _scale_fault(block: Block, weights: Float32Array, difference: Difference) -> Fault | None:
    """Scales that are wrong, by what factor, or in the wrong order."""
    fitted = _fitted_scales(block, weights)
    order = _group_order(block, fitted, difference)
    if order is not None:
        return order
    ratios = np.abs(block.scales / np.where(fitted == 0, block.scales, fitted))
    ratios = np.where(ratios == 0, 1, ratios)
    margin = max(FACTOR_MARGIN, _NOISES * float(np.median(np.abs(ratios / np.median(ratios) - 1))))
    off = np.abs(ratios - 1) > margin
    if off.mean() >= MOST and np.ptp(np.quantile(ratios, (0.1, 0.9))) < 2 * margin * np.median(ratios):
        named = "the weights are" if block.algo in (None, "W8A16") else "the scale is"
        return Fault(
            kind="wrong-scale", what=f"{named} about {np.median(ratios):.2g} times what the model's weights give"
        )
    faults = [_few_scales_fault(ratios, off), _prequant_fault(block, weights)]
    return max((fault for fault in faults if fault is not None), key=lambda fault: fault.strength, default=None)


def _few_scales_fault(ratios: Float32Array, off: npt.NDArray[np.bool_]) -> Fault | None:
    if not off.any() or off.mean() > _FEW:
        return None
    row, group = (int(value) for value in np.unravel_index(np.abs(np.log(ratios)).argmax(), ratios.shape))
    place = f"row {row}" + (f", group {group}" if ratios.shape[1] > 1 else "")
    return Fault(
        kind="wrong-scale",
        what=f"{np.count_nonzero(off)} of {off.size} scales are wrong, that of {place} is about"
        f" {ratios[row, group]:.2g} times what the model's weights give",
        strength=float(abs(np.log(ratios[row, group]))),
    )


def _prequant_fault(block: Block, weights: Float32Array) -> Fault | None:
    """A few columns that are all too large or too small."""
    if block.prequant is None:
        return None
    columns = np.abs(_column_factors(block, weights))
    columns = np.where(columns == 0, 1, columns)
    wrong = np.abs(columns - 1) > max(FACTOR_MARGIN, _NOISES * float(np.median(np.abs(columns - 1))))
    if not wrong.any() or wrong.mean() > _FEW:
        return None
    column = int(np.abs(np.log(columns)).argmax())
    return Fault(
        kind="wrong-prequant-scale",
        what=f"{np.count_nonzero(wrong)} of {len(columns)} prequant scales are wrong, that of column {column} by a"
        f" factor of {columns[column]:.2g}",
        strength=float(abs(np.log(columns[column]))),
    )


def _fitted_scales(block: Block, weights: Float32Array) -> Float32Array:
    """The scales with which the codes come nearest to the weights, least squares."""
    unfolded = weights if block.prequant is None else weights / block.prequant
    shape = (block.codes.shape[0], block.scales.shape[1], -1)
    codes, wanted = block.codes.reshape(shape).astype(np.float64), unfolded.reshape(shape)
    axes: tuple[int, ...] = (2,) if block.scales.shape[0] > 1 else (0, 2)
    energy = (codes**2).sum(axes)
    fitted: Float32Array = ((codes * wanted).sum(axes) / np.where(energy == 0, 1, energy)).reshape(block.scales.shape)
    return fitted


def _group_order(block: Block, fitted: Float32Array, difference: Difference) -> Fault | None:
    """Whether the scales of the groups are those of others, the same way in every row that is wrong."""
    rows = np.flatnonzero(difference.is_wrong.any(1))
    if block.scales.shape[1] < 2 or block.scales.shape[0] == 1 or len(rows) < 2:
        return None
    stored, wanted = block.scales[rows].astype(np.float64), fitted[rows]
    distances = ((stored[:, :, None] - wanted[:, None, :]) ** 2).mean(0)
    order = distances.argmin(1)
    if (order == np.arange(len(order))).all() or len(set(order.tolist())) != len(order):
        return None
    in_place = float(np.diagonal(distances).sum())
    reordered = float(distances[np.arange(len(order)), order].sum())
    if reordered > in_place / 4:
        return None
    moved = [(group, int(source)) for group, source in enumerate(order) if group != source]
    shown = ", ".join(f"group {group} has group {source}'s" for group, source in moved[:3])
    return Fault(kind="wrong-group-order", what=f"the scales of {len(moved)} groups are in the wrong order: {shown}")


def _column_factors(block: Block, weights: Float32Array) -> Float32Array:
    """By what each column's prequant scale is larger than the weights make it."""
    found = block.unfolded.astype(np.float64)
    energy = (weights.astype(np.float64) ** 2).sum(0)
    factors: Float32Array = (found * weights).sum(0) / np.where(energy == 0, 1, energy)
    return np.where(energy == 0, 1, factors).astype(np.float32)


def _values_fault(difference: Difference) -> Fault:
    count = int(np.count_nonzero(difference.is_wrong))
    row, column = (int(index[0]) for index in np.nonzero(difference.is_wrong))
    return Fault(
        kind="wrong-values",
        what=f"{count} of {difference.is_wrong.size} numbers are not those of the model, the first in row {row}, column"
        f" {column}",
    )


def _sample(places: IntArray) -> IntArray:
    """Evenly spread ones, so that large blocks are matched in seconds."""
    step = max(1, len(places) // _ROWS_MATCHED)
    return places[::step] if step == 1 else np.unique(np.concatenate([places[::step], places[1::step]]))


def _directions(rows: Float32Array) -> Float32Array:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    directions: Float32Array = rows / np.where(lengths == 0, 1, lengths)
    return directions
