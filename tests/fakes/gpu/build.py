"""`trtllm-build`: checks its arguments and the checkpoint, and writes an engine directory that holds no engine.

Order and log lines after tensorrt_llm/commands/build.py @65f1d1536e18, builder.py @008b2b8d23af and _common.py
@0fccc5b97dd7, and the logs that users sent to public issues (NVIDIA/TensorRT-LLM 2324, 2451, 1433, 1428).
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from gpu.build_arguments import parse_arguments
from gpu.build_checkpoint import Checkpoint, read_checkpoint
from gpu.build_rules import build_config, refuse_arguments
from gpu.machine import Machine, record, this_machine

_FP8_ALGOS = {"FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_BLOCK_SCALES", "W4A8_AWQ"}
_REQUESTED_BYTES = 16654532608


def main(argv: Sequence[str]) -> int:
    record("trtllm-build", argv)
    machine = this_machine()
    print(f"[TensorRT-LLM] TensorRT LLM version: {machine.trtllm}", flush=True)
    arguments = parse_arguments(argv)
    started = time.monotonic()
    try:
        _build(arguments, machine)
    except Exception:  # noqa: BLE001 - the tool prints a traceback of whatever it was
        traceback.print_exc()
        return 1
    _info(f"Total time of building all engines: {_clock(time.monotonic() - started)}")
    return 0


def _build(arguments: argparse.Namespace, machine: Machine) -> None:
    refuse_arguments(arguments)
    out = Path(arguments.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("paged_kv_cache",):
        if getattr(arguments, name) is not None:
            _warn(f"Option --{name} is deprecated, use --kv_cache_type=paged/disabled instead.")
    if os.environ.get("FAKE_TRTLLM_FAIL") == "version":
        raise TypeError("QuantConfig.__init__() got an unexpected keyword argument 'mamba_ssm_cache_dtype'")
    if arguments.checkpoint_dir is None:
        raise AssertionError("the stand-in builds from a checkpoint only")
    checkpoint = read_checkpoint(Path(arguments.checkpoint_dir), _warn)
    config = build_config(arguments, checkpoint, machine, _warn)
    for name, value in config["plugin_config"].items():
        _info(f"Set PluginConfig.{name} to {value}.")
    workers = min(len(machine.visible_gpus), arguments.workers)
    if workers < 1:
        raise ValueError("max_workers must be greater than 0")
    pretrained = {**checkpoint.config, "logits_dtype": arguments.logits_dtype or checkpoint.config["logits_dtype"]}
    _refuse_card(checkpoint, machine)
    for first in range(0, checkpoint.world_size, workers):
        ranks = range(first, min(first + workers, checkpoint.world_size))
        _build_ranks(ranks, arguments, machine, is_parallel=workers > 1)
        for rank in ranks:
            _save(rank, out, pretrained, config, arguments, machine)


def _refuse_card(checkpoint: Checkpoint, machine: Machine) -> None:
    """Formats that TensorRT itself refuses on a card."""
    if checkpoint.quant_algo in _FP8_ALGOS and machine.sm < 89:
        _fail_network(
            "Error Code 9: API Usage Error (Networks with FP8 Q/DQ layers require hardware with FP8 support.)"
        )
    if checkpoint.quant_algo == "NVFP4" and machine.sm < 100:
        _fail_network(
            "Error Code 9: API Usage Error (Networks with FP4 Q/DQ layers require hardware with FP4 support.)"
        )


def _build_ranks(ranks: range, arguments: argparse.Namespace, machine: Machine, *, is_parallel: bool) -> None:
    """The lines of ranks that are built side by side come mixed, and do not name the rank."""
    for line in (
        "Total time of constructing network from module object 2.79 seconds",
        "Total optimization profiles added: 1",
        "Total time to initialize the weights in network Unnamed Network 0: 00:00:00",
        "Build TensorRT engine Unnamed Network 0",
    ):
        for _ in ranks:
            _info(line)
    _take_time(ranks, is_parallel=is_parallel)
    _fail_on_demand(is_parallel=is_parallel)
    for _ in ranks:
        _trt("I", "Engine generation completed in 15.4544 seconds.")
        _info("Total time of building Unnamed Network 0: 00:00:22")
        if arguments.output_timing_cache:
            Path(arguments.output_timing_cache).write_bytes(b"timing cache of the stand-in")
            _info(f"Timing cache serialized to {arguments.output_timing_cache}")
        _info("Build phase peak memory: 40294.03 MB, children: 16.96 MB")


def _take_time(ranks: range, *, is_parallel: bool) -> None:
    """Parallel ranks have a process each, which outlives this one when only this one is told to end."""
    seconds = os.environ.get("FAKE_TRTLLM_SECONDS")
    if seconds and is_parallel:
        for worker in [subprocess.Popen(["sleep", seconds]) for _ in ranks]:
            worker.wait()
    elif seconds:
        time.sleep(float(seconds))


def _fail_on_demand(*, is_parallel: bool) -> None:
    wish = os.environ.get("FAKE_TRTLLM_FAIL")
    if wish == "oom":
        text = f"Error Code 2: OutOfMemory (Requested size was {_REQUESTED_BYTES} bytes.)"
        _trt("E", f"[virtualMemoryBuffer.cpp::resizePhysical::154] {text}")
        _trt("W", f"Requested amount of GPU memory ({_REQUESTED_BYTES} bytes) could not be allocated.")
        _fail_network(f"[globWriter.cpp::makeResizableGpuMemory::433] {text}")
    if wish == "sm":
        raise RuntimeError(
            "[TensorRT-LLM][ERROR] Assertion failed: Unsupported Arch (/src/cutlass_preprocessors.cpp:147)"
        )
    if wish == "killed":
        if is_parallel:
            text = "A process in the process pool was terminated abruptly while the future was running or pending."
            raise AssertionError("Engine building failed, please check error log.") from BrokenProcessPool(text)
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def _fail_network(reason: str) -> NoReturn:
    _trt("E", reason)
    _log("TRT-LLM", "E", "Engine building failed, please check the error log.")
    raise AssertionError("Engine building failed, please check the error log.")


def _save(
    rank: int,
    out: Path,
    pretrained: dict[str, Any],
    config: dict[str, Any],
    arguments: argparse.Namespace,
    machine: Machine,
) -> None:
    """`Engine.save`: config.json comes with rank 0, before its engine."""
    for index, directory in enumerate(config["lora_config"]["lora_dir"]):
        target = out / "lora" / str(index)
        target.mkdir(parents=True, exist_ok=True)
        (target / "adapter_config.json").write_bytes((Path(directory) / "adapter_config.json").read_bytes())
    if rank == 0:
        whole = {"version": machine.trtllm, "pretrained_config": pretrained, "build_config": config}
        (out / "config.json").write_text(json.dumps(whole, indent=4))
    if arguments.dry_run:
        return
    path = out / f"rank{rank}.engine"
    _info(f"Serializing engine to {path}...")
    if os.environ.get("FAKE_TRTLLM_FAIL") == "disk":
        path.write_bytes(b"half an engine")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    stamp = {"stand_in": "TensorRT-LLM engine", "rank": rank, "sm": machine.sm, "trtllm": machine.trtllm}
    path.write_text(json.dumps(stamp))
    _info("Engine serialized. Total time: 00:00:19")
    if arguments.fast_build:
        (out / f"rank{rank}_managed_weights.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")


def _log(tool: str, severity: str, text: str) -> None:
    print(f"[{datetime.now(UTC):%m/%d/%Y-%H:%M:%S}] [{tool}] [{severity}] {text}", flush=True)


def _info(text: str) -> None:
    _log("TRT-LLM", "I", text)


def _warn(text: str) -> None:
    _log("TRT-LLM", "W", text)


def _trt(severity: str, text: str) -> None:
    _log("TRT", severity, text)


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds))
