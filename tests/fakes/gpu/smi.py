"""`nvidia-smi`: `--query-gpu=… --format=csv…`, `-L`; what else it is asked is refused in the tool's words."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from gpu.machine import Machine, record, this_machine

_UNITS = {"memory.total": "MiB", "memory.free": "MiB", "memory.used": "MiB", "utilization.gpu": "%"}
_FIELDS: Mapping[str, Callable[[Machine, int], str]] = {
    "index": lambda machine, index: str(index),
    "name": lambda machine, index: machine.name,
    "gpu_name": lambda machine, index: machine.name,
    "uuid": lambda machine, index: f"GPU-00000000-0000-0000-0000-{index:012d}",
    "count": lambda machine, index: str(machine.gpus),
    "driver_version": lambda machine, index: machine.driver,
    "compute_cap": lambda machine, index: f"{machine.sm // 10}.{machine.sm % 10}",
    "memory.total": lambda machine, index: str(machine.memory_mib),
    "memory.free": lambda machine, index: str(machine.memory_mib - 4),
    "memory.used": lambda machine, index: "4",
    "utilization.gpu": lambda machine, index: "0",
    "mig.mode.current": lambda machine, index: "Disabled",
    "pci.bus_id": lambda machine, index: f"00000000:{index + 1:02X}:00.0",
}


def main(argv: Sequence[str]) -> int:
    record("nvidia-smi", argv)
    machine = this_machine()
    if os.environ.get("FAKE_SMI_FAIL") == "driver":
        print("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
        return 9
    if machine.gpus == 0:
        print("No devices were found")
        return 6
    if list(argv) in (["-L"], ["--list-gpus"]):
        for index in range(machine.gpus):
            print(f"GPU {index}: {machine.name} (UUID: {_FIELDS['uuid'](machine, index)})")
        return 0
    return _query(argv, machine)


def _query(argv: Sequence[str], machine: Machine) -> int:
    given = dict(argument.partition("=")[::2] for argument in argv)
    ids = range(machine.gpus)
    for name in given.keys() - {"--query-gpu", "--format", "--id"}:
        print(f"Invalid combination of input arguments. Please run 'nvidia-smi -h' for help. ({name})")
        return 2
    if "--id" in given:
        ids = range(int(given["--id"]), int(given["--id"]) + 1)
        if ids[0] >= machine.gpus:
            print("No devices were found")
            return 6
    options = given.get("--format", "").split(",")
    if options[0] != "csv" or not {*options[1:]} <= {"noheader", "nounits"}:
        print(
            f'Format "{given.get("--format", "")}" is not a valid format: --format=csv[,noheader][,nounits] is needed'
        )
        return 2
    fields = [field.strip() for field in given.get("--query-gpu", "").split(",")]
    for field in fields:
        if field not in _FIELDS:
            print(f'Field "{field}" is not a valid field to query.')
            return 2
    units = {} if "nounits" in options else _UNITS
    if "noheader" not in options:
        print(", ".join(f"{field} [{units[field]}]" if field in units else field for field in fields))
    for index in ids:
        print(", ".join(" ".join([_FIELDS[field](machine, index), units.get(field, "")]).strip() for field in fields))
    return 0
