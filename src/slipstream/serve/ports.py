"""Ports on the loopback address: busy ones are reported with their owner, `auto` finds free ones."""

from __future__ import annotations

import contextlib
import random
import socket
from dataclasses import dataclass
from typing import Final, Literal

from slipstream.errors import SlipstreamError
from slipstream.spec import PortsSpec

LOOPBACK: Final = "127.0.0.1"

# In a container whose ports are published on the host's loopback, the server listens on the container's own network.
Address = Literal["127.0.0.1", "0.0.0.0"]  # noqa: S104

# Below Linux's ephemeral range (32768–60999): no outgoing connection takes a port between our look and the bind.
_AUTO_RANGE = range(20000, 32768)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where a deployment answers, as host:port."""

    http: str
    grpc: str
    metrics: str


def resolve_ports(wanted: PortsSpec | Literal["auto"], *, has_gateway: bool = False) -> PortsSpec:
    """The ports to use: as wanted and found free (the gateway's where there is one), or four free ones for `auto`.

    Raises SlipstreamError naming a busy port, its owner and the mend.
    """
    if wanted == "auto":
        http, grpc, metrics, gateway = _free_ports(4)
        return PortsSpec(http=http, grpc=grpc, metrics=metrics, gateway=gateway)
    for name, port in wanted.model_dump().items():
        if name != "gateway" or has_gateway:
            _refuse_busy(name, port)
    return wanted


def free_gateway_port(wanted: PortsSpec | Literal["auto"]) -> int:
    """The gateway's port where its Tritons run elsewhere, or run here already."""
    if wanted == "auto":
        [port] = _free_ports(1)
        return port
    _refuse_busy("gateway", wanted.gateway)
    return wanted.gateway


def endpoints(ports: PortsSpec) -> Endpoints:
    return Endpoints(
        http=f"{LOOPBACK}:{ports.http}", grpc=f"{LOOPBACK}:{ports.grpc}", metrics=f"{LOOPBACK}:{ports.metrics}"
    )


def _refuse_busy(name: str, port: int) -> None:
    if not is_free(port):
        raise SlipstreamError(
            f"port {port} (runtime.ports.{name}) on {LOOPBACK} is busy: {_owner(port)} listens there",
            mend=f"stop it, or choose other ports: --set runtime.ports.{name}=PORT, or --set runtime.ports=auto",
        )


def _free_ports(count: int) -> list[int]:
    candidates = random.SystemRandom().sample(_AUTO_RANGE, 200)
    free = [port for port in candidates if is_free(port)][:count]
    if len(free) < count:
        raise SlipstreamError(
            f"fewer than {count} of {len(candidates)} tried ports on {LOOPBACK} are free",
            mend="stop other servers, or name the ports in runtime.ports",
        )
    return free


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of the loopback address."""
    with socket.socket() as probe:
        # As servers bind: a connection of an earlier server that still lingers in TIME_WAIT is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except PermissionError as error:
            raise SlipstreamError(
                f"port {port} on {LOOPBACK} may not be opened by this user: ports below 1024 are the system's",
                mend="choose a port of 1024 or higher",
            ) from error
        except OSError:
            return False
    return True


def _owner(port: int) -> str:
    """The process that listens on `port`, as far as we may see."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    break
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "a process of another user"
