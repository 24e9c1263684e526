"""The examination: facts in, a report out; nothing is read or started here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slipstream.doctor.check_engine import check_engines
from slipstream.doctor.check_machine import check_formats, check_machine, check_memory
from slipstream.doctor.check_versions import check_versions
from slipstream.doctor.check_vulnerabilities import check_vulnerabilities
from slipstream.doctor.compatibility import compatibility
from slipstream.doctor.facts import Facts, Memory, Methods, Serving
from slipstream.doctor.findings import Report, by_gravity
from slipstream.doctor.gather import gather_facts
from slipstream.errors import SlipstreamError
from slipstream.project import Workspace
from slipstream.spec import DeploymentSpec


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


def run_doctor(
    *,
    root: Path,
    spec: DeploymentSpec | None = None,
    workspace: Workspace | None = None,
    methods: Methods | None = None,
    hardware_sm: int | None = None,
    memory: Memory | None = None,
    stale: Sequence[SlipstreamError] = (),
    serving: Serving | None = None,
) -> Report:
    """Gather the facts and examine them; see `gather_facts` for what is handed in."""
    return examine(
        gather_facts(
            root=root,
            spec=spec,
            workspace=workspace,
            methods=methods,
            hardware_sm=hardware_sm,
            memory=memory,
            stale=stale,
            serving=serving,
        )
    )
