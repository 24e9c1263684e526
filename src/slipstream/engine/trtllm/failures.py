"""Why `trtllm-build` failed, and what to do about it, from its exit code and what it printed.

The words are those of TensorRT-LLM 1.2 (tensorrt_llm/builder.py, commands/build.py, plugin/plugin.py,
models/modeling_utils.py, cpp/tensorrt_llm/common/attentionOp.cpp), of TensorRT 10 and of PyTorch 2; the logs of
NVIDIA/TensorRT-LLM issues 102, 346, 743, 1428, 1696, 1864, 2141, 2451 and 2855 show them.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

from slipstream.command_line import Command
from slipstream.errors import SlipstreamError


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One kind of failure."""

    what: str
    mend: str
    pattern: re.Pattern[str]
    returncodes: tuple[int, ...] = ()  # that mean it without a word in the log


_CONTAINER = "run it in the container of docker/versions.env (TRITON_TRTLLM_IMAGE)"

# The exact ones first: TensorRT also complains about memory, or a kernel, in runs that fail for another reason.
CAUSES = (
    Cause(
        what="this trtllm-build does not know the command's flags: it is another version than 1.2",
        mend=_CONTAINER,
        pattern=re.compile(r"trtllm-build: error: "),
    ),
    Cause(
        what="there is no room left on the disk",
        mend="free some space in the workspace, or use another directory with --out, and build again",
        pattern=re.compile(r"No space left on device|Disk quota exceeded"),
    ),
    Cause(
        what="TensorRT-LLM cannot be imported",
        mend=_CONTAINER,
        pattern=re.compile(
            r"No module named '(tensorrt|tensorrt_llm|torch)\b|operators failed to load|\.so[.\d]*: cannot"
        ),
    ),
    Cause(
        what="no GPU is to be seen",
        mend="start the container with --gpus all, with at least the driver of docker/versions.env"
        " (MINIMUM_DRIVER_VERSION) on the host",
        pattern=re.compile(
            r"Found no NVIDIA driver|driver version is insufficient|No CUDA GPUs are available|no CUDA-capable device"
            r"|CUDA initialization failure|max_workers must be greater than 0"
        ),
    ),
    Cause(
        what="this GPU does not run the quantization or a plugin of this engine",
        mend="build on the GPUs that serve, or choose another quantization.recipe for these: `slipstream doctor` says"
        " what runs on them",
        pattern=re.compile(
            r"not supported on SM|require hardware with FP[48] support|FMHA cannot be enabled|Unsupported SM"
            r"|Unsupported Arch|no kernel image is available|Target GPU SM \d+ is not supported"
        ),
    ),
    Cause(
        what="the checkpoint and this TensorRT-LLM do not fit: another version wrote the one or is the other",
        mend="quantize again and build with the versions of docker/versions.env",
        pattern=re.compile(
            r"TypeError: .*got an unexpected keyword argument|Unsupported model architecture"
            r"|KeyError: '\w+(ForCausalLM|Model)'|Required but not provided tensors|safetensors.*header"
        ),
    ),
    Cause(
        what="the timing cache is damaged",
        mend="delete the timing*.cache beside the engine and build again",
        pattern=re.compile(r"assert cache is not None|create_timing_cache"),
    ),
    Cause(
        what="the machine has too little memory for so many ranks at once",
        mend="set engine.trtllm_build.workers to a smaller number, or give the container more memory",
        pattern=re.compile(
            r"BrokenProcessPool|terminated abruptly|\bMemoryError|can't allocate memory|Cannot allocate memory"
        ),
        returncodes=(-signal.SIGKILL, 128 + signal.SIGKILL),
    ),
    Cause(
        what="the GPU has too little free memory",
        mend="stop what else runs on it (nvidia-smi), lower engine.max_num_tokens or engine.max_batch_size, or cut the"
        " model finer with engine.tp_size",
        pattern=re.compile(r"Error Code 2: OutOfMemory|CUDA out of memory|cudaErrorMemoryAllocation|OutOfMemoryError"),
    ),
    Cause(
        what="TensorRT found no kernel for a layer",
        mend="stop what else runs on the GPU (too little memory hides kernels), or lower engine.max_num_tokens",
        pattern=re.compile(r"Could not find any implementation for node"),
    ),
)
_ERROR = re.compile(r"^\w*(Error|Exception)\b|\[E\]|\[ERROR\]|\berror:")
_MAX_LINE = 600  # of what is quoted


class Evidence:
    """The lines of a log that matter when the run fails."""

    def __init__(self) -> None:
        self._first: dict[int, str] = {}  # index of a cause → the first line that shows it
        self._last_error = ""
        self._last_line = ""

    def read(self, line: str) -> None:
        """Take note of one line."""
        if not line.strip():
            return
        self._last_line = line
        if _ERROR.search(line):
            self._last_error = line
        for index, cause in enumerate(CAUSES):
            if index not in self._first and cause.pattern.search(line):
                self._first[index] = line

    def failure(self, returncode: int, log: Path) -> SlipstreamError:
        """The error that explains why the run ended with `returncode`."""
        for index, cause in enumerate(CAUSES):
            line = self._first.get(index)
            if line is not None or returncode in cause.returncodes:
                return _failed(f"{cause.what} ({(line or _ended(returncode)).strip()[:_MAX_LINE]})", cause.mend, log)
        found = (self._last_error or self._last_line or "it printed nothing").strip()[:_MAX_LINE]
        return _failed(f"it {_ended(returncode)}: {found}", "mend what its log says", log)


def not_found(command: Command) -> SlipstreamError:
    """`trtllm-build` is not on the PATH."""
    where = f"in the container {command.container}" if command.container else _CONTAINER.removeprefix("run it ")
    return SlipstreamError(
        f"{command.argv[0]}: there is no such command on this machine; it comes with TensorRT-LLM",
        mend=f"run this stage {where}; `slipstream up NAME --dry-run` prints its commands",
    )


def _ended(returncode: int) -> str:
    if returncode < 0:
        names = {number.value: number.name for number in signal.Signals}  # real-time signals have none
        return f"was ended by {names.get(-returncode, f'signal {-returncode}')}"
    return f"ended with exit code {returncode}"


def _failed(what: str, mend: str, log: Path) -> SlipstreamError:
    return SlipstreamError(f"trtllm-build failed: {what}", mend=f"{mend}; all that it printed is in {log}")
