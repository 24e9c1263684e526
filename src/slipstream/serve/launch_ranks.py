"""The arguments of each rank's `tritonserver`, and the mpirun line that starts them on one machine.

Rank 0 serves and loads every model. Another rank loads the engines only and opens no port: its `tensorrt_llm` does not
return from loading, and it takes its orders from rank 0 through MPI.
"""

from __future__ import annotations

from dataclasses import dataclass

from slipstream.serve.launch_shape import Shape
from slipstream.serve.ports import Address
from slipstream.spec import PortsSpec

TRITONSERVER = "tritonserver"

# They write files, map memory and load code; nobody needs them.
RESTRICTED_APIS = "model-repository,shared-memory,trace,logging"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What the servers of all ranks have in common."""

    repository: str
    ports: PortsSpec
    address: Address
    shm_prefix: str
    restricted_key: str | None
    engine_models: tuple[str, ...]

    def serving(self, *, rank: int) -> tuple[str, ...]:
        """The rank that clients reach."""
        return (*self._common(str(rank)), *self.serving_only())

    def silent(self, *, rank: int) -> tuple[str, ...]:
        """A rank that only computes."""
        return (*self._common(str(rank)), *self.silent_only())

    def of_shell_variable(self, variable: str) -> tuple[str, ...]:
        """What all ranks share, the rank being the value of a shell variable; to be quoted by double quotes."""
        return self._common(f"${{{variable}}}")

    def serving_only(self) -> tuple[str, ...]:
        ports = self.ports
        return (
            # Every model is loaded once, at the start: no page that a browser shows may load one of its own.
            "--model-control-mode=none",
            *self._restricted(),
            f"--http-address={self.address}",
            f"--http-port={ports.http}",
            f"--grpc-address={self.address}",
            f"--grpc-port={ports.grpc}",
            f"--metrics-address={self.address}",
            f"--metrics-port={ports.metrics}",
        )

    def silent_only(self) -> tuple[str, ...]:
        return (
            "--allow-http=false",
            "--allow-grpc=false",
            "--allow-metrics=false",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self.engine_models),
        )

    def _common(self, rank: str) -> tuple[str, ...]:
        return (
            TRITONSERVER,
            f"--model-repository={self.repository}",
            # Two servers on a machine must not share the regions of their Python stubs.
            f"--backend-config=python,shm-region-prefix-name={self.shm_prefix}rank{rank}_",
            "--disable-auto-complete-config",
            "--exit-on-error=true",
            "--exit-timeout-secs=10",
        )

    def _restricted(self) -> tuple[str, ...]:
        if self.restricted_key is None:
            return ()
        rule = f"{RESTRICTED_APIS}:slipstream={self.restricted_key}"
        return (f"--http-restricted-api={rule}", f"--grpc-restricted-protocol={rule}")


def mpirun(server: Server, shape: Shape, options: tuple[str, ...]) -> tuple[str, ...]:
    """One mpirun for all ranks of `shape`; `options` are mpirun's own."""
    return ("mpirun", "--allow-run-as-root", *options, *segments(server, shape))


def segments(server: Server, shape: Shape) -> tuple[str, ...]:
    """`-n 1` and a server for each rank, rank 0 first, colons between."""
    argv: list[str] = ["-n", "1", *server.serving(rank=0), *_spawning_options(shape)]
    for rank in range(1, shape.ranks):
        argv += [":", "-n", "1", *server.silent(rank=rank)]
    return tuple(argv)


def _spawning_options(shape: Shape) -> tuple[str, ...]:
    """A server whose models run in processes of their own keeps its hands off the GPUs' memory."""
    if not shape.spawns:
        return ()
    pools = (f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(max(shape.gpus) + 1))
    return ("--pinned-memory-pool-byte-size=0", "--enable-peer-access=false", *pools)
