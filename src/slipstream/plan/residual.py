"""What the analytic model leaves over, learnt from published rows: a Gaussian process on the logarithm of the error.

Near a published row the prediction leans on it and its interval is narrow; far from all of them the correction fades to
nothing and the interval widens to the analytic model's own error.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.plan.cases import Case, Floats, active_requests

NUMBERS = ("tp", "input", "output", "active", "active_parameters", "parameters")
WORDS = ("model", "gpu", "generation", "format", "runtime", "version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What makes two cases alike: numbers on logarithmic scales, and words."""

    numbers: Floats  # [cases, NUMBERS]
    words: NDArray[np.int64]  # [cases, WORDS], a checksum of each word


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One term of the covariance: how strong, and how fast likeness fades with each trait."""

    amplitude: float
    scales: tuple[float, ...]  # length on each of NUMBERS
    strangeness: tuple[float, ...]  # what a different word of each of WORDS costs, as a logarithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """Hyperparameters of one quantity's process."""

    kernels: tuple[Kernel, ...]
    noise: float  # standard deviation of a published figure, of its logarithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Mean and standard deviation of log(measured / analytic)."""

    mean: Floats
    deviation: Floats


@dataclass(frozen=True, slots=True)
class Residual:
    """A process conditioned on rows: `errors` are their log(measured / analytic)."""

    process: Process
    traits: Traits
    errors: Floats
    weights: Floats
    whitener: Floats  # inverse of the lower Cholesky factor of the rows' covariance

    def at(self, traits: Traits) -> Correction:
        """The correction of other cases."""
        across = covariance(self.process, traits, self.traits)
        solved = self.whitener @ across.T
        own = sum(kernel.amplitude**2 for kernel in self.process.kernels) + self.process.noise**2
        variance = np.maximum(own - (solved**2).sum(axis=0), self.process.noise**2)
        return Correction(mean=across @ self.weights, deviation=np.sqrt(variance))


def condition(process: Process, traits: Traits, errors: Floats) -> Residual:
    """Learn from rows."""
    factor = np.linalg.cholesky(covariance(process, traits, traits) + process.noise**2 * np.eye(len(errors)))
    whitener = np.linalg.inv(factor)
    return Residual(process, traits, errors, whitener.T @ (whitener @ errors), whitener)


def covariance(process: Process, left: Traits, right: Traits) -> Floats:
    """Prior covariance of the errors of two lists of cases."""
    shape = (len(left.numbers), len(right.numbers))
    # One matrix a trait, written once and in place: [traits, left cases, right cases].
    distances = np.empty((len(NUMBERS) + len(WORDS), *shape))
    for index in range(len(NUMBERS)):
        np.subtract(left.numbers[:, None, index], right.numbers[None, :, index], out=distances[index])
    np.square(distances[: len(NUMBERS)], out=distances[: len(NUMBERS)])
    for index in range(len(WORDS)):
        distances[len(NUMBERS) + index] = left.words[:, None, index] != right.words[None, :, index]
    rates = np.array([[*(0.5 / scale**2 for scale in k.scales), *k.strangeness] for k in process.kernels])
    strengths = np.array([kernel.amplitude**2 for kernel in process.kernels])
    fading = rates @ distances.reshape(len(distances), -1)
    np.exp(np.negative(fading, out=fading), out=fading)
    return np.asarray(strengths @ fading).reshape(shape)


def traits(cases: Sequence[Case]) -> Traits:
    """The traits of cases."""
    return Traits(
        numbers=np.array([_numbers(case) for case in cases], dtype=np.float64).reshape(-1, len(NUMBERS)),
        words=np.array([_words(case) for case in cases], dtype=np.int64).reshape(-1, len(WORDS)),
    )


def checksum(word: str) -> int:
    """The number that stands for a word in `Traits.words`."""
    return zlib.crc32(word.encode())


def _numbers(case: Case) -> list[float]:
    shape = case.model.shape
    active = shape.dense_parameters + shape.active_expert_parameters
    values = (
        case.split.tp,
        case.input_tokens,
        case.output_tokens,
        max(active_requests(case), 1),
        active / 1e9,
        shape.parameters / 1e9,
    )
    return [math.log(value) for value in values]


def _words(case: Case) -> list[int]:
    version = ".".join(case.version.split(".")[:2])
    words = (case.model.name, case.gpu.name, case.gpu.generation, case.weights.name, case.runtime, version)
    return [checksum(word) for word in words]
