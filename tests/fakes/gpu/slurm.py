"""`srun` on one machine: every task of every node runs here, with the variables by which a task knows its rank."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence

from gpu.machine import record
from gpu.processes import run_all

_FORMS = {
    "--mpi": "pmix",  # launch.json: the only one that Triton's documents use
    "--nodes": r"[1-9]\d*",
    "--ntasks-per-node": r"[1-9]\d*",
    "--container-image": r"\S+",
    "--container-mounts": r"/\S+:/\S+",
}


def main(argv: Sequence[str]) -> int:
    record("srun", argv)
    options: dict[str, str] = {}
    rest = list(argv)
    while rest and rest[0].startswith("-"):
        name, _, value = rest.pop(0).partition("=")
        if name not in _FORMS or not re.fullmatch(_FORMS[name], value):
            print(f"srun: unrecognized option '{name}={value}'", file=sys.stderr)
            return 1
        options[name] = value
    missing = {"--mpi", "--nodes", "--ntasks-per-node"} - options.keys()
    if missing or not rest or shutil.which(rest[0]) is None:
        print(f"srun: fatal: no command, or no {sorted(missing)}", file=sys.stderr)
        return 1
    nodes, tasks = int(options["--nodes"]), int(options["--ntasks-per-node"])
    size = {"SLURM_NTASKS": str(nodes * tasks), "SLURM_JOB_NUM_NODES": str(nodes)}
    ranks = [{**os.environ, **size, "SLURM_PROCID": str(rank)} for rank in range(nodes * tasks)]
    return run_all([(rest, env) for env in ranks]).code
