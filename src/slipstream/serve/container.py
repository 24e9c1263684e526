"""Serves a GPU deployment inside NVIDIA's container: pre-flight, then the ranks of its launch plan."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from slipstream.project import Workspace
from slipstream.serve.environment import without_secrets
from slipstream.serve.health import LLMAPI_PROBE, TEXT_PROBE
from slipstream.serve.launch import launch_plan
from slipstream.serve.ports import Address
from slipstream.serve.preflight import require_ready
from slipstream.serve.preflight_facts import gather
from slipstream.serve.shared_memory import region_prefix
from slipstream.serve.triton import TritonServer, start_ranks
from slipstream.spec import DeploymentSpec, PortsSpec


def check_container(spec: DeploymentSpec, workspace: Workspace, ports: PortsSpec) -> None:
    """Raise SlipstreamError naming all that would stop the ranks of `spec` from starting here."""
    require_ready(spec, gather(spec, workspace, ports, os.environ))


def start_in_container(
    spec: DeploymentSpec, repository: Path, ports: PortsSpec, run: Path, address: Address
) -> TritonServer:
    """Start the ranks of `spec`, with a key to the administrative APIs that nobody has."""
    [command] = launch_plan(
        spec,
        repository=str(repository),
        container=None,
        ports=ports,
        address=address,
        shm_prefix=region_prefix(os.getpid()),
        restricted_key=secrets.token_hex(16),
    )
    probe = LLMAPI_PROBE if spec.engine.target == "llmapi" else TEXT_PROBE
    return start_ranks(command, ports, run, environment=without_secrets(os.environ), probe=probe)
