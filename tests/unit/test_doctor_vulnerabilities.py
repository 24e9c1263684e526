"""Known vulnerabilities: every row judged, exposure by how the deployment serves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import get_args

import pytest

from slipstream.doctor import Facts, Finding, Serving, examine
from slipstream.doctor.check_vulnerabilities import versions_in_use
from slipstream.doctor.compatibility import compatibility
from slipstream.doctor.findings import SEVERITIES
from slipstream.doctor.vulnerabilities import Product, Vulnerability, affects, exposures, vulnerabilities
from tests.unit.doctor_facts import PINS, a_machine, a_spec, found, healthy, on_the_cpu, one

TABLE = compatibility()
ROWS = {row.cve: row for row in vulnerabilities()}
LLMAPI, TWO_NODES = "llama-3.1-8b-nvfp4-llmapi-b200", "llama-3.1-405b-fp8-tp8-pp2-h100"


def a_row(affected: str, fixed_in: str, product: Product = "triton") -> Vulnerability:
    row = ROWS["CVE-2025-23310"]
    return replace(row, product=product, affected=affected, fixed_in=fixed_in)


def cves(facts: Facts) -> list[Finding]:
    return [finding for finding in examine(facts).findings if finding.id.startswith("CVE-")]


def test_no_bulletin_is_lost() -> None:
    rows = vulnerabilities()
    assert len(rows) == len(ROWS) == 98
    assert Counter(row.product for row in rows) == {"triton": 64, "tensorrt_llm": 18, "dynamo": 15, "modelopt": 1}
    assert all(row.severity in SEVERITIES for row in rows)
    assert all(0 < row.cvss <= 10 for row in rows)
    assert all(row.bulletin.endswith(".md") for row in rows)


def test_every_component_has_a_rule_and_every_rule_a_component() -> None:
    named = {(row.product, row.component) for row in vulnerabilities()}
    ruled = {(product, component) for product, rows in exposures().items() for component in rows}
    assert named == ruled
    assert {product for product, _ in named} == set(get_args(Product))


def test_every_row_can_be_read_for_a_version_of_its_time() -> None:
    versions = {"triton": "20.01", "tensorrt_llm": "0.1.0", "modelopt": "0.1.0", "dynamo": "0.1.0"}
    unread = [row.cve for row in vulnerabilities() if affects(row, versions[row.product], TABLE) == "unknown"]
    assert unread == ["CVE-2024-53880"]  # its bulletin names one release and says nothing of those before


@pytest.mark.parametrize(
    ("affected", "fixed_in", "version", "expected"),
    [
        ("All versions prior to 25.07", "25.07", "25.06", "yes"),
        ("All versions prior to 25.07", "25.07", "25.07", "no"),
        ("All versions prior to r25.10", "r25.10", "24.10", "yes"),
        ("All versions prior to 2.40", "2.40", "24.10", "no"),
        ("All versions prior to 2.40", "2.40", "23.10", "yes"),
        ("20.10 to 24.03", "24.04", "24.03", "yes"),
        ("20.10 to 24.03", "24.04", "24.04", "no"),
        ("20.10 to 24.03", "soon", "24.03", "yes"),
        ("20.10 to 24.03", "24.04", "20.09", "no"),
        ("20.10 to 24.03", "24.05", "24.04", "yes"),  # neither affected nor mended: taken as affected
        ("v19.11 through v24.08", "24.09", "24.08", "yes"),
        ("0.0-26.05", "26.06", "26.05", "yes"),
        ("0.0 - 26.04", "26.05", "26.07", "no"),
        ("24.11", "24.12", "24.11", "yes"),
        ("24.11", "24.12", "24.12", "no"),
        ("24.11", "24.12", "24.10", "unknown"),
        ("some builds", "25.01", "24.10", "unknown"),
        ("All versions prior to the next", "soon", "24.10", "unknown"),
        ("All versions prior to 25.07", "25.07", "nightly", "unknown"),
    ],
)
def test_ranges_as_bulletins_write_them(affected: str, fixed_in: str, version: str, expected: str) -> None:
    assert affects(a_row(affected, fixed_in), version, TABLE) == expected


@pytest.mark.parametrize(
    ("affected", "version", "expected"),
    [
        ("0.0 to v1.3.0 rc16", "1.2.1", "yes"),
        ("0.0  to v1.3.0 rc11", "1.3.0rc11", "yes"),
        ("0.0 to v1.3.0 rc16", "1.3.0rc17", "no"),
        ("0.0 to v1.3.0 rc16", "1.3.0", "no"),
        ("All versions prior to v1.2.1", "1.2.1", "no"),
        ("All versions prior to v1.2", "1.2.0", "no"),
    ],
)
def test_release_candidates_of_tensorrt_llm(affected: str, version: str, expected: str) -> None:
    fixed = "v1.3.0 rc17" if "1.3" in affected else affected.rpartition(" ")[2]
    assert affects(a_row(affected, fixed, "tensorrt_llm"), version, TABLE) == expected


def test_what_cannot_be_judged_is_found_and_not_dropped() -> None:
    assert "CVE-2024-53880" in one(on_the_cpu(), "cve-unknown").what


@pytest.mark.parametrize(("server", "release"), [("2.51.0", "24.10"), ("2.40", "23.11"), ("2.44.0", "24.03")])
def test_the_servers_own_number_is_translated(server: str, release: str) -> None:
    assert TABLE.release_of(server) == release


def test_the_container_has_no_listed_vulnerability_of_triton() -> None:
    labels = [finding.what for finding in cves(healthy())]
    assert labels
    assert all(label.startswith("TensorRT-LLM 1.2.1") for label in labels)


def test_an_older_container_has_them() -> None:
    older = healthy(pins=replace(PINS, image="nvcr.io/nvidia/tritonserver:25.07-trtllm-python-py3"))
    assert any("Triton 25.07" in finding.what for finding in cves(older))


def test_the_embedded_server_has_those_after_its_release() -> None:
    listed = {finding.id for finding in cves(on_the_cpu())}
    assert "CVE-2025-23310" in listed  # mended in 25.07
    assert "CVE-2024-0116" not in listed  # mended in 24.09
    assert not any(ROWS[cve].product == "tensorrt_llm" for cve in listed)


def test_on_the_loopback_address_a_remote_overflow_is_a_local_one() -> None:
    finding = one(on_the_cpu(), "CVE-2025-23310")
    assert ROWS[finding.id].severity == "critical"
    assert finding.severity == "medium"
    assert "on this machine only" in finding.what


def test_on_an_open_address_it_is_critical_and_blocks() -> None:
    public = on_the_cpu(serving=Serving(address="0.0.0.0"))
    finding = one(public, "CVE-2025-23310")
    assert finding.severity == "critical"
    assert ": exposed:" in finding.what
    assert examine(public).verdict == "blocked"


def test_a_medium_one_is_not_made_graver_by_being_local() -> None:
    finding = one(on_the_cpu(), "CVE-2026-47481")
    assert ROWS[finding.id].severity == finding.severity == "medium"


def test_model_control_exposes_only_where_it_is_on() -> None:
    off = one(on_the_cpu(), "CVE-2025-23316")
    on = one(on_the_cpu(serving=Serving(model_control="explicit")), "CVE-2025-23316")
    assert (off.severity, on.severity) == ("info", "critical")


def test_parts_that_are_not_used_are_information() -> None:
    for cve in ("CVE-2025-23268", "CVE-2025-33238"):
        finding = one(on_the_cpu(), cve)
        assert finding.severity == "info"
        assert "not exposed" in finding.what


def test_the_sampler_of_the_llm_api_is_reached_by_its_clients_alone() -> None:
    assert one(healthy(), "CVE-2026-47475").severity == "info"
    assert one(healthy(spec=a_spec(LLMAPI), engines=()), "CVE-2026-47475").severity == "medium"


def test_ranks_on_several_machines_are_reached_from_the_next_one() -> None:
    assert one(healthy(), "CVE-2026-47471").severity == "info"
    nodes = healthy(spec=a_spec(TWO_NODES), engines=(), serving=Serving(multi_node=True))
    assert one(nodes, "CVE-2026-47471").severity == "high"


def test_a_mend_says_when_it_ends_the_engines() -> None:
    assert "after the last release with engines" in one(healthy(), "CVE-2026-47473").mend
    assert "there is no wheel" in one(on_the_cpu(), "CVE-2025-23310").mend


def test_an_embedded_server_of_unknown_release_is_said() -> None:
    packages = {**on_the_cpu().machine.packages, "nvidia-pytriton": "0.9.0"}
    unknown = on_the_cpu(machine=replace(on_the_cpu().machine, packages=packages))
    assert one(unknown, "cve-versions").severity == "medium"


def test_the_installed_modelopt_is_looked_up() -> None:
    old = healthy(machine=a_machine(packages={"nvidia-modelopt": "0.37.0"}))
    assert one(old, "CVE-2026-24141").severity == "info"
    assert not found(healthy(machine=a_machine(packages={"nvidia-modelopt": "0.47.0"})), "CVE-2026-24141")


def test_dynamo_is_never_in_use() -> None:
    assert "dynamo" not in {used.product for used in versions_in_use(healthy(), TABLE)}


def test_each_vulnerability_is_found_once_with_a_mitigation() -> None:
    for facts in (healthy(), on_the_cpu(), on_the_cpu(spec=None)):
        counts = Counter(finding.id for finding in cves(facts))
        assert max(counts.values()) == 1
        assert all(finding.mend and "mended in" in finding.mend for finding in cves(facts))
