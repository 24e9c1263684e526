"""Runs all ranks of a checkpoint as processes and collects their logits."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slipstream.errors import SlipstreamError
from slipstream.progress import Reporter
from slipstream.quantize.verify.rank_process import INPUT_IDS_FILE, LOGITS_FILE, RECORDED_FILE, Work, run_rank
from slipstream.trtllm_checkpoint.config import Architecture
from slipstream.trtllm_checkpoint.shard import Float32Array

# Loaded once in the process that ranks are forked from: importing torch takes longer than running a small rank.
_PRELOADED = ["torch", "torch.distributed", "slipstream.quantize.verify.decoder"]
_REPORT_PERIOD_S = 1.0
_END_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What the ranks computed."""

    logits: Float32Array  # [batch, tokens, vocabulary]
    input_ranges: Sequence[dict[str, float]]  # per rank: linear layer → largest magnitude of what went in
    layer_errors: dict[int, float]  # by layer, a share of what it adds; empty where nothing was recorded
    seconds: float


def execute(
    checkpoint: Path,
    architecture: Architecture,
    input_ids: npt.NDArray[np.int64],
    report: Reporter,
    *,
    recorded: Float32Array | None = None,
    device: str = "cpu",
) -> Execution:
    """Run `input_ids` [batch, tokens] through every rank of `checkpoint`; SlipstreamError where a rank fails.

    `recorded` [layers + 1, batch, tokens, hidden] are the inputs of every layer, to compare each layer alone. On `cuda`
    ranks take the visible GPUs in turn.
    """
    started_s = time.monotonic()
    world_size = architecture.parallelism.world_size
    threads = max(1, (os.cpu_count() or 1) // world_size)
    with tempfile.TemporaryDirectory(prefix="slipstream-verify-") as name:
        folder = Path(name)
        np.save(folder / INPUT_IDS_FILE, input_ids)
        if recorded is not None:
            np.save(folder / RECORDED_FILE, recorded)
        works = [
            Work(checkpoint=checkpoint.resolve(), folder=folder, rank=rank, device=place, threads=threads)
            for rank, place in enumerate(_devices(device, world_size))
        ]
        with _ranks(works) as processes:
            _wait_for_all(processes, folder, report)
        results = [json.loads((folder / f"rank{work.rank}.json").read_text()) for work in works]
        return Execution(
            logits=np.load(folder / LOGITS_FILE),
            input_ranges=[result["input_ranges"] for result in results],
            layer_errors={int(layer): error for result in results for layer, error in result["layer_errors"].items()},
            seconds=time.monotonic() - started_s,
        )


@contextmanager
def _ranks(works: Sequence[Work]) -> Iterator[list[BaseProcess]]:
    """Rank processes that run while the block does; none is left after it, whatever happens."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    processes: list[BaseProcess] = []
    ends = []
    try:
        for work in works:
            theirs, ours = context.Pipe(duplex=False)
            ends.append(ours)
            process = context.Process(target=run_rank, args=(work, theirs), name=f"rank{work.rank}", daemon=True)
            process.start()
            processes.append(process)
            theirs.close()
        yield processes
    finally:
        for started in processes:
            started.terminate()
        for started in processes:
            started.join(_END_S)
            if started.is_alive():
                started.kill()
                started.join()
        for end in ends:
            end.close()


def _wait_for_all(processes: Sequence[BaseProcess], folder: Path, report: Reporter) -> None:
    """Until every rank is done, or one has failed: the others would wait for it."""
    running = {process.sentinel: process for process in processes}
    while running:
        done = len(processes) - len(running)
        report(f"running {len(processes)} rank{'s'[: len(processes) > 1]}", done / len(processes))
        ended = wait(list(running), timeout=_REPORT_PERIOD_S)
        for process in [running.pop(sentinel) for sentinel in list(running) if sentinel in ended]:
            process.join()
            if process.exitcode != 0:
                raise _failure(process, folder)


def _failure(process: BaseProcess, folder: Path) -> SlipstreamError:
    error = folder / f"{process.name}.error"
    if error.exists():
        return SlipstreamError(
            f"{process.name}: {error.read_text(encoding='utf-8')}",
            mend="see the findings, and quantize the model again",
        )
    return SlipstreamError(
        f"{process.name}: ended with code {process.exitcode} without a word",
        mend="if that is -9 the system ran out of memory: free some, or verify on a larger machine",
    )


def _devices(device: str, ranks: int) -> list[str]:
    if device != "cuda":
        return [device] * ranks
    import torch

    return [f"cuda:{rank % torch.cuda.device_count()}" for rank in range(ranks)]
