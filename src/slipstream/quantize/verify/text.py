"""A verification for people to read."""

from __future__ import annotations

from collections.abc import Iterator

from slipstream.quantize.verify.findings import Finding, Verification

_SHOWN = 20
_MARKS = {"error": "error  ", "warning": "warning", "note": "note   "}


def verification_text(verification: Verification) -> str:
    """Some lines: what was compared, the figures, and every kind of finding."""
    return "\n".join(_lines(verification))


def _lines(verification: Verification) -> Iterator[str]:
    algo = verification.algo or "not quantized"
    cache = f", KV cache {verification.kv_cache_algo}" if verification.kv_cache_algo else ""
    ranks = f", {verification.ranks} rank{'s' if verification.ranks != 1 else ''}" if verification.ranks else ""
    yield f"{'ok' if verification.ok else 'NOT ok'}: {algo}{cache}{ranks}"
    codes = verification.codes
    if codes.compared:
        near = f", {codes.within_rounding} within the rounding of 16-bit scales" if codes.within_rounding else ""
        yield f"numbers   {codes.equal} of {codes.compared} equal those of the model{near}"
    if verification.max_layer_error is not None:
        largest = f"{verification.max_layer_error:.3g} (tolerated {verification.layer_tolerance})"
        yield f"layers    {verification.exact_layers} exact, largest error {largest} of what a layer adds"
    if verification.max_abs_logit_error is not None:
        limit = f" (tolerated {verification.tolerance:.3g})" if verification.tolerance is not None else ""
        largest = f"{verification.max_abs_logit_error:.3g}{limit}"
        yield f"logits    largest error {largest}, against {verification.compared_with}"
        yield f"          KL {verification.kl:.3g}, the same most likely token {verification.top1_agreement:.1%}"
    ordered = sorted(verification.findings, key=lambda finding: list(_MARKS).index(finding.severity))
    for finding in ordered[:_SHOWN]:
        yield from _finding(finding)
    if len(ordered) > _SHOWN:
        yield f"and {len(ordered) - _SHOWN} more; --json has them all"


def _finding(finding: Finding) -> Iterator[str]:
    yield f"{_MARKS[finding.severity]} {finding.kind}: {finding.where}: {finding.what}"
    yield f"        mend: {finding.mend}"
