"""Several machines: the srun line of Slurm, and the mpirun line on the leader pod of a LeaderWorkerSet.

Both need what only the running job knows (a rank, a pod's name), so a few words of bash stand around the servers.
"""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

from slipstream.serve.launch_ranks import Server, segments
from slipstream.serve.launch_shape import Shape

# An HTTP body of some megabytes overflows the usual stack of 8 MB; a lower hard limit is no reason not to start.
_RAISE_STACK = "ulimit -S -s 262144 2>/dev/null || true"

# Starts a command in another pod of the group, by `kubectl exec`; named as in Triton's multi-node tutorial.
_RSH_AGENT = "kubessh"


def slurm_argv(server: Server, shape: Shape, container: str | None) -> tuple[str, ...]:
    """srun on the login node; the image, if any, is started by Slurm's container plugin (pyxis)."""
    workspace = PurePosixPath(server.repository).parent
    image = (
        (f"--container-image={_enroot(container)}", f"--container-mounts={workspace}:{workspace}") if container else ()
    )
    srun = ("srun", "--mpi=pmix", f"--nodes={shape.nodes}", f"--ntasks-per-node={shape.ranks_per_node}", *image)
    if shape.mode == "llmapi":
        return (*srun, "trtllm-llmapi-launch", *server.serving(rank=0))
    return (*srun, "bash", "-c", _rank_script(server))


def lws_script(server: Server, shape: Shape) -> str:
    """A script for the leader pod: mpirun over all pods of its group, whose names follow from the leader's."""
    options = f'-mca plm_rsh_agent {_RSH_AGENT} --host "{_pods(shape)}"'
    if shape.mode == "llmapi":
        started = shlex.join(("-n", str(shape.ranks), "trtllm-llmapi-launch", *server.serving(rank=0)))
    else:
        started = shlex.join(segments(server, shape))
    return "\n".join(
        (
            f'if [ "$LWS_GROUP_SIZE" != {shape.nodes} ]; then',
            f'  echo "LWS_GROUP_SIZE is $LWS_GROUP_SIZE, the deployment needs {shape.nodes} pods" >&2; exit 1',
            "fi",
            _RAISE_STACK,
            f"exec mpirun --allow-run-as-root {options} {started}",
        )
    )


def _enroot(image: str) -> str:
    """An image as enroot names it: `[REGISTRY#]IMAGE[:TAG]`; one without a registry is Docker Hub's, as elsewhere."""
    registry, slash, name = image.partition("/")
    return f"{registry}#{name}" if slash and ("." in registry or ":" in registry) else image


def _rank_script(server: Server) -> str:
    """srun gives every task the same command: the task's number decides what it becomes."""
    common = _double_quoted(server.of_shell_variable("SLURM_PROCID"))
    return "\n".join(
        (
            _RAISE_STACK,
            'if [ "$SLURM_PROCID" -eq 0 ]; then',
            f"  exec {common} {shlex.join(server.serving_only())}",
            "fi",
            f"exec {common} {shlex.join(server.silent_only())}",
        )
    )


def _pods(shape: Shape) -> str:
    """`--host`: the leader's pod is NAME-GROUP, the first label of its address; workers add their index."""
    leader = "${LWS_LEADER_ADDRESS%%.*}"
    names = [leader, *(f"{leader}-{worker}" for worker in range(1, shape.nodes))]
    return ",".join(f"{name}:{shape.ranks_per_node}" for name in names)


def _double_quoted(words: tuple[str, ...]) -> str:
    """Words of our own that name a shell variable: a variable is filled in, nothing else is special in them."""
    return " ".join(f'"{word}"' if "$" in word else shlex.quote(word) for word in words)
