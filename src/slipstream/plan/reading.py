"""Reads the three fields that a person writes: model, workload, hardware. Deterministic; says what it took from where.

Whatever the text leaves open becomes a stated assumption; what contradicts itself is named, and how it was resolved.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from slipstream.plan.inputs import HardwareInput, ModelInput, PlanInput, WorkloadInput
from slipstream.plan.reading_hardware import read_hardware
from slipstream.plan.reading_model import read_model_text
from slipstream.plan.reading_workload import read_workload
from slipstream.plan.understanding import Understanding

__all__ = ["Reading", "read_texts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The input of a plan and how it was understood."""

    input: PlanInput
    notes: Understanding = field(default_factory=Understanding)


def read_texts(*, model: str, workload: str, hardware: str) -> Reading:
    """Read the three texts. Raises SpecError for a model or hardware that cannot be planned for, by its name."""
    notes = Understanding()
    model_input: ModelInput = read_model_text(model, notes)
    workload_input: WorkloadInput = read_workload(workload, notes)
    hardware_input: HardwareInput = read_hardware(hardware, notes)
    return Reading(input=PlanInput(model=model_input, workload=workload_input, hardware=hardware_input), notes=notes)
