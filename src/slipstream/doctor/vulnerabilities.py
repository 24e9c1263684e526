"""Known vulnerabilities of the versions in use, and whether a deployment exposes them.

data/vulnerabilities.csv holds the facts of NVIDIA's bulletins, data/exposure.yaml one rule a component. A row that
cannot be judged is reported, never dropped.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import yaml

from slipstream.doctor.compatibility import Compatibility
from slipstream.doctor.findings import Severity
from slipstream.doctor.versions import Version

Product = Literal["triton", "tensorrt_llm", "modelopt", "dynamo"]
Affected = Literal["yes", "no", "unknown"]
Reach = Literal["none", "local", "user"]

_BEFORE = re.compile(r"^all versions prior to (?P<limit>.+)$", re.IGNORECASE)
_RANGE = re.compile(r"^(?P<first>[vr]?[\d.]+)\s*(?:to|through|-)\s*(?P<last>[vr]?[\d.]+(?:\s*rc\d+)?)$", re.IGNORECASE)
_FIRST_RELEASE_YEAR = 19  # Triton's releases are 19.11, 26.07, …; smaller numbers are of the server itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Vulnerability:
    """One row of the bulletins."""

    cve: str
    date: str
    product: str
    severity: Severity
    cvss: float
    vector: str
    affected: str
    fixed_in: str
    component: str
    effect: str
    bulletin: str

    @property
    def is_network(self) -> bool:
        return self.vector.startswith("AV:N")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What a component of a product means for our deployments."""

    reach: Reach
    why: str
    mend: str
    when: str | None = None


def affects(vulnerability: Vulnerability, version: str, table: Compatibility) -> Affected:
    """Whether `version` of the vulnerability's product is affected; `unknown` where its words cannot be read.

    For Triton, `version` is a release (26.07); a bulletin that counts the server (2.40) is translated.
    """
    found = Version.parse(version)
    fixed = _version(vulnerability.fixed_in, vulnerability.product, table)
    if found is None:
        return "unknown"
    text = vulnerability.affected.strip()
    before, spread = _BEFORE.match(text), _RANGE.match(text)
    if before is not None:
        limit = _version(before["limit"], vulnerability.product, table)
        return "unknown" if limit is None else _yes(found < limit)
    if spread is not None:
        first, last = (_version(spread[end], vulnerability.product, table) for end in ("first", "last"))
        if first is None or last is None:
            return "unknown"
        # Between the last affected and the mended version lies nothing but development builds: taken as affected.
        return _yes(first <= found and (found <= last or (fixed is not None and found < fixed)))
    return _single(found, _version(text, vulnerability.product, table), fixed)


def vulnerabilities_of(product: Product) -> tuple[Vulnerability, ...]:
    return tuple(row for row in vulnerabilities() if row.product == product)


@functools.cache
def vulnerabilities() -> tuple[Vulnerability, ...]:
    """All rows of the bundled bulletins."""
    text = (resources.files("slipstream.doctor") / "data" / "vulnerabilities.csv").read_text(encoding="utf-8")
    return tuple(_rows(line for line in text.splitlines() if not line.startswith("#")))


@functools.cache
def exposures() -> Mapping[str, Mapping[str, Exposure]]:
    """Product → component → what it means here."""
    text = (resources.files("slipstream.doctor") / "data" / "exposure.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    return {product: {name: Exposure(**row) for name, row in rows.items()} for product, rows in data.items()}


def _rows(lines: Iterable[str]) -> Iterator[Vulnerability]:
    for row in csv.DictReader(lines):
        yield Vulnerability(**{**row, "cvss": float(row["cvss"])})  # type: ignore[arg-type]


def _single(found: Version, named: Version | None, fixed: Version | None) -> Affected:
    """A bulletin that names one version: of others before the mended one nothing is known."""
    if fixed is not None and found >= fixed:
        return "no"
    return "yes" if named is not None and found == named else "unknown"


def _version(text: str, product: str, table: Compatibility) -> Version | None:
    version = Version.parse(text)
    if product != "triton" or version is None or version.major >= _FIRST_RELEASE_YEAR or version.major == 0:
        return version
    release = table.release_of(text)
    return Version.parse(release) if release else None


def _yes(claim: bool) -> Affected:
    return "yes" if claim else "no"
