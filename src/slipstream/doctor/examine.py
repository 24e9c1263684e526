"""The examination: facts in, a report out; nothing is read or started here."""

from __future__ import annotations

from slipstream.doctor.check_engine import check_engines
from slipstream.doctor.check_machine import check_formats, check_machine, check_memory
from slipstream.doctor.check_versions import check_versions
from slipstream.doctor.check_vulnerabilities import check_vulnerabilities
from slipstream.doctor.compatibility import compatibility
from slipstream.doctor.facts import Facts
from slipstream.doctor.findings import Report, by_gravity


def examine(facts: Facts) -> Report:
    """Every check over `facts`, the gravest findings first."""
    table = compatibility()
    found = [
        *facts.found,
        *check_versions(facts, table),
        *check_machine(facts, table),
        *check_formats(facts),
        *check_memory(facts),
        *check_engines(facts),
        *check_vulnerabilities(facts, table),
    ]
    return Report(subject=facts.name, findings=tuple(sorted(found, key=by_gravity)))
