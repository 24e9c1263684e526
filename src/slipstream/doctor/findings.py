"""What an examination finds, and the verdict that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["critical", "high", "medium", "low", "info"]
Verdict = Literal["ok", "warnings", "blocked"]

SEVERITIES: tuple[Severity, ...] = ("critical", "high", "medium", "low", "info")

# Every id that can be found, besides the CVE numbers; docs/doctor.md lists them from here.
FINDINGS: Mapping[str, str] = {
    "pins": "the versions in docker/versions.env belong to one container",
    "runtime-version": "the installed TensorRT-LLM is the pinned one",
    "runtime-packages": "transformers beside the installed TensorRT-LLM is the one that it is released with",
    "export-packages": "ModelOpt and transformers can export a TensorRT-LLM checkpoint",
    "engine-workflow": "how long engines can still be built",
    "embedded-triton": "the embedded server and its packages fit together",
    "driver": "the driver is new enough for the container's CUDA",
    "gpu-none": "no GPU at hand: GPUs are checked from the spec alone",
    "gpu-count": "there are as many GPUs as the deployment has ranks on a machine",
    "gpu-other": "the GPUs at hand are those of the spec",
    "recipe-on-gpu": "the weights and the KV cache format run on the GPU",
    "recipe-on-target": "the LLM API reads checkpoints of the recipe",
    "kv-format": "the KV cache format does not switch off what the spec asks for",
    "shared-memory": "the shared memory is large enough",
    "memory": "weights, activations, KV caches and draft fit the card",
    "memory-unknown": "whether the memory could be computed",
    "artifact-stale": "artifacts were made from what the spec now says",
    "engine-missing": "there is an engine to look at",
    "engine-unreadable": "the engine's config.json can be read",
    "engine-version": "the engine was built with the TensorRT-LLM that loads it",
    "engine-gpu": "the engine was built on a GPU like the one that runs it",
    "engine-gpu-unknown": "whether it is known on which GPU the engine was built",
    "engine-ranks": "every rank of the engine is there, and as many as the spec says",
    "engine-sizes": "the engine is at least as large as the spec and Triton ask for",
    "engine-format": "the engine's weights and KV cache are in the spec's formats",
    "engine-inflight": "the engine can batch in flight",
    "engine-paged-fmha": "the engine can reuse KV blocks and split prompts",
    "engine-draft": "the engine verifies as many draft tokens as the spec asks for",
    "cve-unknown": "bulletins that could not be judged",
    "cve-versions": "versions whose known vulnerabilities cannot be looked up",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found."""

    id: str
    severity: Severity  # for this deployment
    what: str
    mend: str
    is_aside: bool = False  # a vulnerability that clients cannot reach: counted, not printed, unless asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings, the gravest first."""

    subject: str  # the deployment's name, or "this machine"
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """`blocked`: it would fail or must not go live; `warnings`: it would run otherwise than the spec says."""
        found = {finding.severity for finding in self.findings}
        if "critical" in found:
            return "blocked"
        return "warnings" if found & {"high", "medium"} else "ok"

    @property
    def exit_code(self) -> int:
        return 1 if self.verdict == "blocked" else 0

    def as_json(self) -> dict[str, Any]:
        findings = [
            {"id": finding.id, "severity": finding.severity, "what": finding.what, "mend": finding.mend}
            for finding in self.findings
        ]
        return {"verdict": self.verdict, "findings": findings}


def by_gravity(finding: Finding) -> tuple[int, str]:
    """Sort key: the gravest first, then by id."""
    return SEVERITIES.index(finding.severity), finding.id
