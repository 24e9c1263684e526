"""What a verification says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
Kind = Literal[
    "damaged-file",
    "config",
    "rotary",
    "missing-tensor",
    "extra-tensor",
    "wrong-dtype",
    "wrong-shape",
    "not-finite",
    "ranks-disagree",
    "swapped-rows",
    "swapped-columns",
    "cut-mid-head",
    "wrong-shard",
    "wrong-layer",
    "wrong-scale",
    "wrong-prequant-scale",
    "wrong-activation-scale",
    "wrong-group-order",
    "wrong-values",
    "bias",
    "kv-scale",
    "exclude-modules",
    "execution",
    "layer-output",
    "logits",
    "not-compared",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or that could not be looked at."""

    kind: Kind
    severity: Severity
    where: str  # file and tensor
    what: str  # found, and expected
    mend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """How many stored numbers were compared with those computed from the Hugging Face weights."""

    compared: int = 0
    equal: int = 0  # bit for bit
    within_rounding: int = 0  # not equal, and no further off than the 16-bit rounding of prequant scales explains

    def __add__(self, other: Codes) -> Codes:
        return Codes(
            compared=self.compared + other.compared,
            equal=self.equal + other.equal,
            within_rounding=self.within_rounding + other.within_rounding,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The whole answer; `ok` means that no finding is an error."""

    ok: bool
    max_abs_logit_error: float | None  # None: the ranks could not be run
    kl: float | None  # of next-token distributions from the reference's, mean over tokens, in nats
    top1_agreement: float | None  # share of tokens with the same most likely next one
    findings: Sequence[Finding]
    compared_with: str | None
    tolerance: float | None  # of max_abs_logit_error; None: only KL and agreement are judged
    max_layer_error: float | None  # of layers run from the reference's input; None: it has none
    layer_tolerance: float | None
    exact_layers: int | None  # whose output is the reference's but for the order of sums
    codes: Codes
    algo: str | None
    kv_cache_algo: str | None
    ranks: int | None
    seconds: float | None  # that the ranks ran

    def as_json(self) -> dict[str, Any]:
        """JSON values, the keys that scripts rely on first."""
        return asdict(self)


def error(kind: Kind, where: str, what: str, mend: str = "quantize the model again") -> Finding:
    return Finding(kind=kind, severity="error", where=where, what=what, mend=mend)


def warning(kind: Kind, where: str, what: str, mend: str) -> Finding:
    return Finding(kind=kind, severity="warning", where=where, what=what, mend=mend)


def note(kind: Kind, where: str, what: str, mend: str) -> Finding:
    return Finding(kind=kind, severity="note", where=where, what=what, mend=mend)
