"""What quantization costs: a model against itself before, on text and on questions, with limits and a report.

`measure_base` runs before the quantizers are put in, `measure_against` after; `judge` compares with a recipe's limits.
"""

from slipstream.quantize.accuracy.choices import ChoiceItem, build_items
from slipstream.quantize.accuracy.gate import Violation, judge, rejection
from slipstream.quantize.accuracy.measure import BaseMeasurement, measure_against, measure_base
from slipstream.quantize.accuracy.report import AccuracyReport, ChoiceAccuracy, TextAccuracy

__all__ = [
    "AccuracyReport",
    "BaseMeasurement",
    "ChoiceAccuracy",
    "ChoiceItem",
    "TextAccuracy",
    "Violation",
    "build_items",
    "judge",
    "measure_against",
    "measure_base",
    "rejection",
]
