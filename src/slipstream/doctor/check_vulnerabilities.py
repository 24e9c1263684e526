"""Findings about known vulnerabilities: one for each that the versions in use have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slipstream.doctor.compatibility import Compatibility, release_of_image
from slipstream.doctor.facts import Facts
from slipstream.doctor.findings import SEVERITIES, Finding, Severity
from slipstream.doctor.versions import is_older
from slipstream.doctor.vulnerabilities import Exposure, Product, Vulnerability, affects, exposures, vulnerabilities_of

# What only this machine can reach is at most this grave, however the bulletin scores it for an open network.
_LOCAL_LIMIT: Severity = "medium"


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """A version of a product that a deployment runs."""

    product: Product
    version: str  # as bulletins count: a Triton release, else the version itself
    label: str  # for people


def check_vulnerabilities(facts: Facts, table: Compatibility) -> Iterator[Finding]:
    """One finding for each vulnerability of the versions in use; those that cannot be judged, too."""
    for used in versions_in_use(facts, table):
        for vulnerability in vulnerabilities_of(used.product):
            judged = affects(vulnerability, used.version, table)
            if judged == "unknown":
                yield _unknown(vulnerability, used)
            elif judged == "yes":
                yield _finding(vulnerability, used, facts, table)
    yield from _unlisted(facts, table)


def versions_in_use(facts: Facts, table: Compatibility) -> Iterator[InUse]:
    """Of the container for a GPU deployment, of the embedded server for one on the CPU; both for a bare machine."""
    spec, pins, packages = facts.spec, facts.pins, facts.machine.packages
    if pins is not None and (spec is None or facts.is_gpu_path):
        release = release_of_image(pins.image)
        if release is not None:
            yield InUse(product="triton", version=release, label=f"Triton {release}")
        trtllm = packages.get("tensorrt-llm", pins.tensorrt_llm)
        yield InUse(product="tensorrt_llm", version=trtllm, label=f"TensorRT-LLM {trtllm}")
    server = _embedded(facts, table)
    if server is not None and not facts.is_gpu_path:
        release = table.release_of(server)
        if release is not None:
            yield InUse(product="triton", version=release, label=f"embedded tritonserver {server} (Triton {release})")
    modelopt = packages.get("nvidia-modelopt")
    if modelopt is not None:
        yield InUse(product="modelopt", version=modelopt, label=f"ModelOpt {modelopt}")


def _finding(vulnerability: Vulnerability, used: InUse, facts: Facts, table: Compatibility) -> Finding:
    rule = exposures()[vulnerability.product][vulnerability.component]
    severity, exposed = _exposure(vulnerability, rule, facts)
    return Finding(
        id=vulnerability.cve,
        severity=severity,
        what=f"{used.label}: {vulnerability.component}, {vulnerability.effect} (CVSS {vulnerability.cvss:g},"
        f" {vulnerability.severity}): {exposed}: {rule.why}",
        mend=f"{rule.mend}; {_upgrade(vulnerability, facts, table)}",
        is_aside=exposed != "exposed",
    )


def _exposure(vulnerability: Vulnerability, rule: Exposure, facts: Facts) -> tuple[Severity, str]:
    """How grave it is here, and in a word whether it is exposed."""
    if rule.reach == "none" or not _holds(rule.when, facts):
        return "info", "not exposed"
    grave = vulnerability.severity
    open_network = vulnerability.is_network and not facts.serving.is_local
    adjacent = vulnerability.vector.startswith("AV:A") and facts.serving.multi_node
    if rule.reach == "user" or open_network or adjacent:
        return grave, "exposed"
    return max(grave, _LOCAL_LIMIT, key=SEVERITIES.index), "on this machine only"


def _holds(when: str | None, facts: Facts) -> bool:
    """Whether what a rule depends on is so; for a bare machine it is taken to be, but for the launcher's settings."""
    spec = facts.spec
    if when == "model_control":
        return facts.serving.model_control != "none"
    if when is None or spec is None:
        return True
    return {"multi_rank": spec.engine.world_size > 1, "llmapi": spec.engine.target == "llmapi"}[when]


def _upgrade(vulnerability: Vulnerability, facts: Facts, table: Compatibility) -> str:
    mended = f"mended in {vulnerability.fixed_in}"
    after_engines = is_older(table.last_engine_release, vulnerability.fixed_in)
    if vulnerability.product == "tensorrt_llm" and after_engines and facts.is_gpu_path:
        return f"{mended}, after the last release with engines (see engine-workflow)"
    if vulnerability.product == "triton" and not facts.is_gpu_path and facts.spec is not None:
        return f"{mended}, of which there is no wheel"
    return mended


def _unknown(vulnerability: Vulnerability, used: InUse) -> Finding:
    return Finding(
        id="cve-unknown",
        severity="low",
        what=f"{vulnerability.cve} ({vulnerability.severity}): whether {used.label} is affected is not known, the"
        f" bulletin says {vulnerability.affected!r}, mended in {vulnerability.fixed_in}",
        mend=f"read NVIDIA/product-security {vulnerability.bulletin}",
    )


def _unlisted(facts: Facts, table: Compatibility) -> Iterator[Finding]:
    """Versions that the tables have no release for: their vulnerabilities cannot be looked up."""
    version = facts.machine.packages.get("nvidia-pytriton")
    server = _embedded(facts, table)
    lost = version is not None and (server is None or table.release_of(server) is None)
    if lost and not facts.is_gpu_path:
        yield Finding(
            id="cve-versions",
            severity="medium",
            what=f"nvidia-pytriton {version} carries a tritonserver of unknown release: its bulletins were not read",
            mend="install the locked requirements: make setup",
        )
    if facts.pins is not None and release_of_image(facts.pins.image) is None:
        yield Finding(
            id="cve-versions",
            severity="medium",
            what=f"{facts.pins.image} names no Triton release: its bulletins were not read",
            mend="name an image by its release, such as nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
        )


def _embedded(facts: Facts, table: Compatibility) -> str | None:
    return table.embedded_servers.get(facts.machine.packages.get("nvidia-pytriton", ""))
