"""Verifies a TensorRT-LLM checkpoint: its files, its numbers against the model's, and what its ranks compute."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from slipstream.errors import SlipstreamError
from slipstream.progress import Reporter
from slipstream.quantize.verify.declared import check_declared
from slipstream.quantize.verify.execute import Execution, execute
from slipstream.quantize.verify.findings import Codes, Finding, Kind, Verification, error, note
from slipstream.quantize.verify.layout import check_layout, open_shards
from slipstream.quantize.verify.logits import (
    FLOAT,
    MAX_KL,
    REFERENCE_NAME,
    STEPS,
    Comparison,
    Reference,
    compare_logits,
    read_reference,
    tolerance,
)
from slipstream.quantize.verify.ranges import check_calibrated, check_kv_scales, check_second_scales, suspicious_scales
from slipstream.quantize.verify.room import check_room_for_model, check_room_for_ranks
from slipstream.quantize.verify.source import SourceModel
from slipstream.quantize.verify.source_config import check_config
from slipstream.quantize.verify.tensors import check_tensors
from slipstream.quantize.verify.unquantized import unquantized_logits
from slipstream.trtllm_checkpoint.config import Architecture, read_architecture
from slipstream.trtllm_checkpoint.shard import Shard

_PROBE_TOKENS = (2, 24)


@dataclass(slots=True, kw_only=True)
class _Progress:
    """What is known so far."""

    architecture: Architecture | None = None
    findings: list[Finding] = field(default_factory=list)
    codes: Codes = field(default_factory=Codes)
    execution: Execution | None = None
    comparison: Comparison | None = None
    compared_with: str | None = None

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)


def verify_checkpoint(
    checkpoint_dir: Path, *, model_dir: Path | None, report: Reporter, device: str = "cpu"
) -> Verification:
    """Verify the checkpoint in `checkpoint_dir` against the Hugging Face model in `model_dir`.

    Whatever is wrong with the checkpoint is a finding; SlipstreamError is for a model directory that cannot be read,
    and for a machine without the memory.
    """
    known = _Progress()
    source = _source(checkpoint_dir, model_dir)
    try:
        known.architecture = read_architecture(checkpoint_dir / "config.json")
    except SlipstreamError as problem:
        known.findings.append(error(_kind_of(problem), "config.json", problem.message, problem.mend))
        return _result(known)
    if source is not None:
        known.findings += check_config(known.architecture, source.config)
    if not known.has_errors:  # else its sizes are not to be trusted
        _check_room(known.architecture, checkpoint_dir, source)
    shards, damaged = open_shards(checkpoint_dir, known.architecture)
    known.findings += damaged
    if damaged:
        return _result(known)
    known.findings += check_layout(known.architecture, shards)
    if _can_run(known.findings):
        _check_numbers(known, checkpoint_dir, known.architecture, shards, source, report, device)
    known.findings += check_declared(known.architecture, shards)  # last: what it says keeps nothing from being compared
    return _result(known)


def _check_room(architecture: Architecture, checkpoint: Path, source: SourceModel | None) -> None:
    check_room_for_ranks(architecture)
    if source is not None and not (checkpoint / REFERENCE_NAME).is_file():
        check_room_for_model(architecture, source.config)


def _check_numbers(
    known: _Progress,
    checkpoint: Path,
    architecture: Architecture,
    shards: Sequence[Shard],
    source: SourceModel | None,
    report: Reporter,
    device: str,
) -> None:
    if source is None:
        known.findings.append(
            note(
                "not-compared",
                "model",
                "tensors were not compared with the model's: no model was given",
                "give --model",
            )
        )
    elif not any(finding.kind == "config" for finding in known.findings):
        tensors = check_tensors(architecture, shards, source, report)
        known.findings += tensors.findings
        known.codes = tensors.codes
    try:
        reference = read_reference(checkpoint, architecture)
    except SlipstreamError as problem:
        known.findings.append(error("damaged-file", REFERENCE_NAME, problem.message, problem.mend))
        reference = None
    calibrated = reference.input_amax if reference else {}
    known.findings += check_calibrated(architecture, shards, calibrated)
    known.findings += check_kv_scales(architecture, shards, calibrated)
    known.findings += check_second_scales(architecture, shards)
    _run(known, checkpoint, architecture, reference, source, report, device)
    _judge(known, architecture, shards, reference)


def _run(
    known: _Progress,
    checkpoint: Path,
    architecture: Architecture,
    reference: Reference | None,
    source: SourceModel | None,
    report: Reporter,
    device: str,
) -> None:
    input_ids = _probe(architecture, source) if reference is None else reference.input_ids
    try:
        recorded = reference.hidden_states if reference else None
        known.execution = execute(checkpoint, architecture, input_ids, report, recorded=recorded, device=device)
    except SlipstreamError as problem:
        known.findings.append(error("execution", "ranks", problem.message, problem.mend))
        return
    if reference is not None:
        known.compared_with = f"{REFERENCE_NAME}: ModelOpt's fake-quantized model"
        known.comparison = compare_logits(
            known.execution.logits,
            reference.logits,
            architecture.quantization,
            layers_are_judged=reference.hidden_states is not None,
        )
    elif source is not None:
        known.compared_with = "the model before quantization"
        check_room_for_model(architecture, source.config)
        report("running the unquantized model")
        logits = unquantized_logits(source.directory, input_ids)
        known.comparison = compare_logits(known.execution.logits, logits, architecture.quantization)


def _judge(known: _Progress, architecture: Architecture, shards: Sequence[Shard], reference: Reference | None) -> None:
    comparison, execution = known.comparison, known.execution
    if execution is not None and not np.isfinite(execution.logits).all():
        known.findings.append(error("logits", "logits", "are not finite"))
    if reference is None:
        against = "were compared with the model before quantization" if comparison else "were compared with nothing"
        mend = "quantize the model again to have logits to compare with exactly"
        known.findings.append(note("not-compared", REFERENCE_NAME, f"is missing: logits {against}", mend))
    elif reference.hidden_states is None and tolerance(architecture.quantization) is STEPS:
        what = "has no hidden_states: layers were not compared one by one, and logits alone tell only large faults"
        known.findings.append(note("not-compared", REFERENCE_NAME, what, "quantize the model again"))
    if execution is not None:
        known.findings += _layer_findings(execution, tolerance(architecture.quantization).layer)
    problem = _problem(comparison, is_exact=reference is not None)
    if problem is not None and execution is not None:
        known.findings.append(error("logits", "logits", problem, "see the other findings; quantize the model again"))
    if execution is not None and any(finding.kind in ("logits", "layer-output") for finding in known.findings):
        known.findings += suspicious_scales(architecture, shards, execution.input_ranges)


def _layer_findings(execution: Execution, limit: float) -> Iterator[Finding]:
    for layer, off in sorted(execution.layer_errors.items()):
        if not off <= limit:
            yield error(
                "layer-output",
                f"layer {layer}",
                f"its output is off by {off:.3g} of what the layer adds, tolerated is {limit:g}",
                "see the findings about its tensors; quantize the model again",
            )


def _problem(comparison: Comparison | None, *, is_exact: bool) -> str | None:
    """Why logits are too far from what they were compared with, if so; numbers that are none are too far."""
    if comparison is None:
        return None
    if is_exact and not comparison.is_within:
        limit = "" if comparison.tolerated_error is None else f", tolerated are {comparison.tolerated_error:.4g}"
        return (
            f"differ from the fake-quantized model's by up to {comparison.max_abs_error:.4g}{limit};"
            f" KL {comparison.kl:.3g}, tolerated {comparison.tolerated_kl:.3g}"
        )
    if not is_exact and not comparison.kl <= MAX_KL:
        return f"have a KL divergence of {comparison.kl:.3g} from the unquantized model's, tolerated is {MAX_KL:g}"
    return None


def _can_run(findings: Sequence[Finding]) -> bool:
    """Whether every tensor that is needed is there in its type and shape."""
    fatal: set[Kind] = {"missing-tensor", "wrong-dtype", "wrong-shape", "kv-scale", "exclude-modules"}
    return not any(finding.kind in fatal and finding.severity == "error" for finding in findings)


def _source(checkpoint: Path, model_dir: Path | None) -> SourceModel | None:
    if model_dir is None:
        return None
    return SourceModel(model_dir, _dtype(checkpoint / "config.json"))


def _dtype(config_path: Path) -> str:
    """The checkpoint's 16-bit type; what cannot be read is said when the config is."""
    try:
        values = json.loads(config_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "float32"
    dtype = values.get("dtype") if isinstance(values, dict) else None
    return dtype if isinstance(dtype, str) else "float32"


def _probe(architecture: Architecture, source: SourceModel | None) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Tokens drawn at random, the same every time."""
    vocab_size = source.config.get("vocab_size") if source else None
    limit = vocab_size if isinstance(vocab_size, int) else architecture.vocab_size
    return np.random.default_rng(0).integers(0, limit, _PROBE_TOKENS, dtype=np.int64)


def _kind_of(problem: SlipstreamError) -> Kind:
    if "config.json: rotary" in problem.message:
        return "rotary"
    return "cut-mid-head" if "cannot be cut for tp_size" in problem.message else "config"


def _result(known: _Progress) -> Verification:
    comparison, architecture = known.comparison, known.architecture
    quantization = architecture.quantization if architecture else None
    layer_errors = known.execution.layer_errors if known.execution else {}
    is_exact = comparison is not None and (known.compared_with or "").startswith(REFERENCE_NAME)
    return Verification(
        ok=not known.has_errors,
        max_abs_logit_error=comparison.max_abs_error if comparison else None,
        kl=comparison.kl if comparison else None,
        top1_agreement=comparison.top1_agreement if comparison else None,
        findings=tuple(known.findings),
        compared_with=known.compared_with,
        tolerance=comparison.tolerated_error if comparison and is_exact else None,
        max_layer_error=max(layer_errors.values(), default=None),
        layer_tolerance=tolerance(quantization).layer if quantization and layer_errors else None,
        exact_layers=sum(off <= FLOAT.layer for off in layer_errors.values()) if layer_errors else None,
        codes=known.codes,
        algo=quantization.algo if quantization else None,
        kv_cache_algo=quantization.kv_cache_algo if quantization else None,
        ranks=architecture.parallelism.world_size if architecture else None,
        seconds=known.execution.seconds if known.execution else None,
    )
