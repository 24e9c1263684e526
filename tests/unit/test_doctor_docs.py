"""docs/doctor.md says what the doctor does, and names tests and findings that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from slipstream.doctor import FINDINGS, examine
from slipstream.doctor.vulnerabilities import vulnerabilities
from tests.unit.doctor_facts import ROOT, healthy, on_the_cpu

PAGE = (ROOT / "docs" / "doctor.md").read_text()
COMPLAINTS = PAGE.partition("## What users of inference servers report")[2]
ROWS = [line for line in COMPLAINTS.splitlines() if line.startswith("| ") and not line.startswith("| complaint")]


def findings_table() -> str:
    rows = [f"| `{id_}` | {text} |" for id_, text in FINDINGS.items()]
    return "\n".join(["| id | what is looked at |", "|---|---|", *rows]) + "\n"


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_finding_is_listed() -> None:
    between = PAGE.partition("<!-- findings: begin -->\n")[2].partition("<!-- findings: end -->")[0]
    assert between == findings_table(), "write the output of findings_table() between the markers"


def test_all_fifteen_complaints_have_an_answer() -> None:
    assert len(ROWS) == 15
    assert all(row.split("|")[2].strip() for row in ROWS)


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE))), ids="::".join)
def test_a_test_that_is_named_exists(named: tuple[str, str]) -> None:
    file, function = named
    assert (ROOT / file).is_file(), file
    assert function in functions(ROOT / file)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_a_finding_that_is_named_exists(row: str) -> None:
    for part in re.findall(r"findings? ((?:`[a-z-]+`(?:, )?)+)", row):
        assert set(re.findall(r"`([a-z-]+)`", part)) <= set(FINDINGS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_an_answer_is_a_test_a_finding_or_later_work(row: str) -> None:
    answer = row.split("|")[2]
    assert "::" in answer or "finding" in answer or "gateway, later" in answer


def test_the_counts_of_the_page_are_the_doctors() -> None:
    assert f"{len(vulnerabilities())} rows" in PAGE
    in_gpu = [one for one in examine(healthy()).findings if one.id.startswith("CVE-")]
    in_cpu = [one for one in examine(on_the_cpu()).findings if one.id.startswith("CVE-")]
    assert len(in_gpu) == 12
    assert "has twelve" in PAGE
    assert f"  {len(in_cpu)}: it listens" in PAGE
