"""Room on disk that a run needs, told and checked before anything is written."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slipstream.errors import SlipstreamError
from slipstream.formats import Format
from slipstream.quantize.memory import count_parameters, gib
from slipstream.quantize.sharding import ModelShape

FREE_SPACE = "free some space there, or give another place with --out"
SCALE_BITS = 32  # of a group's scale in a checkpoint; NVFP4's blocks have 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskNeed:
    """Something that will be written."""

    what: str
    directory: Path  # need not exist yet
    size_bytes: int
    mend: str


def check_disk(needs: Sequence[DiskNeed]) -> None:
    """Refuse what the file systems have no room for; needs on one of them are added up."""
    by_device: dict[int, list[DiskNeed]] = defaultdict(list)
    for need in needs:
        by_device[_existing(need.directory).stat().st_dev].append(need)
    for together in by_device.values():
        place = _existing(together[0].directory)
        wanted, free = sum(need.size_bytes for need in together), free_bytes(place)
        if wanted > free:
            parts = ", ".join(f"{gib(need.size_bytes)} for {need.what}" for need in together)
            raise SlipstreamError(
                f"{place}: {gib(free)} of disk are free, this run needs about {gib(wanted)} there ({parts})",
                mend="; or ".join(dict.fromkeys(need.mend for need in together)),
            )


def free_bytes(directory: Path) -> int:
    """What this user may still write on the file system of `directory`."""
    return shutil.disk_usage(directory).free


def checkpoint_bytes(shape: ModelShape, entry: Format, group_size: int | None) -> int:
    """About what the files of a checkpoint take: linear layers as `entry` stores them, embedding and lm_head apart."""
    ends = 2 * shape.vocab_size * shape.hidden_size  # lm_head is written apart even where it is tied
    linears = count_parameters(shape, tied=False) - ends
    return int(linears * _file_bits(entry, group_size) / 8) + 2 * ends


def _file_bits(entry: Format, group_size: int | None) -> float:
    """Of one weight; W8A16's are floats in the file, which TensorRT-LLM quantizes when it loads them."""
    if entry.quant_algo in (None, "W8A16"):
        return 16
    if entry.name == "nvfp4":
        return entry.bits_per_weight
    group = group_size or next(iter(entry.group_sizes), None)
    return entry.weight_bits + (SCALE_BITS / group if group else 0)


def _existing(directory: Path) -> Path:
    """The nearest directory at or above it that is there."""
    return next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
