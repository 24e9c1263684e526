"""Checkpoints of every format and cut are executed and found right, and no rank outlives its starter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from slipstream.formats import KvCache, Method
from slipstream.progress import silent
from slipstream.quantize.verify.check import verify_checkpoint
from slipstream.quantize.verify.text import verification_text
from tests.conftest import ROOT
from tests.integration.verify_checkpoints import Make, Planted, checkpoints, models, plant

__all__ = ["checkpoints", "models", "plant"]  # fixtures

CUTS = [
    ("none", "auto", 4, 1),
    ("none", "auto", 1, 2),
    ("int8_wo", "auto", 4, 1),
    ("int8_wo", "fp8", 2, 2),
    ("int8_sq", "auto", 2, 1),
    ("int8_sq", "int8", 1, 2),
    ("fp8", "auto", 4, 1),
    ("fp8", "fp8", 2, 2),
    ("int4_awq", "auto", 4, 1),
    ("int4_awq", "auto", 1, 2),
    ("w4a8_awq", "auto", 4, 1),
    ("w4a8_awq", "fp8", 1, 2),
    ("nvfp4", "auto", 4, 1),
    ("nvfp4", "fp8", 1, 2),
]


@pytest.mark.parametrize(("method", "kv", "tp", "pp"), CUTS)
def test_shards_compute_what_the_fake_quantized_model_does(
    checkpoints: Make, models: Callable[[str], Path], method: Method, kv: KvCache, tp: int, pp: int
) -> None:
    checkpoint = checkpoints(method, kv=kv, tp=tp, pp=pp)
    verification = verify_checkpoint(checkpoint, model_dir=models("llama"), report=silent)
    assert verification.ok, verification_text(verification)
    assert not verification.findings
    assert verification.ranks == tp * pp
    codes = verification.codes
    assert codes.compared > 2_000_000
    if method in ("none", "int8_wo", "fp8", "nvfp4"):
        assert codes.equal == codes.compared
    assert codes.equal + codes.within_rounding == codes.compared
    assert codes.within_rounding < 1e-4 * codes.compared


@pytest.mark.parametrize(
    ("method", "kv", "tp", "ep"),
    [
        ("none", "auto", 2, 2),
        ("fp8", "fp8", 2, 2),
        ("int4_awq", "auto", 2, 2),
        ("nvfp4", "auto", 4, 2),
        ("int8_wo", "auto", 2, 1),
    ],
)
def test_experts_compute_the_same_however_they_are_cut(
    checkpoints: Make, models: Callable[[str], Path], method: Method, kv: KvCache, tp: int, ep: int
) -> None:
    checkpoint = checkpoints(method, model="mixtral", kv=kv, tp=tp, ep=ep)
    verification = verify_checkpoint(checkpoint, model_dir=models("mixtral"), report=silent)
    assert verification.ok, verification_text(verification)


@pytest.mark.parametrize("model", ["rope", "mistral", "qwen2", "qwen3"])
def test_every_architecture_of_the_family_is_executed(
    checkpoints: Make, models: Callable[[str], Path], model: str
) -> None:
    verification = verify_checkpoint(checkpoints("none", model=model, tp=2), model_dir=models(model), report=silent)
    assert verification.ok, verification_text(verification)
    assert verification.max_abs_logit_error is not None
    assert verification.max_abs_logit_error < 1e-4


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_no_rank_outlives_its_starter(plant: Callable[..., Planted], tmp_path: Path, ending: signal.Signals) -> None:
    """A rank waits for one that never comes; the process that started it is killed, or interrupted."""
    planted = plant("none", tp=2)
    path = planted.directory / "rank0.safetensors"
    path.unlink()
    os.mkfifo(path)  # opening it blocks for ever
    code = (
        "import sys; from pathlib import Path\n"
        "from slipstream.progress import silent\n"
        "from slipstream.quantize.verify.execute import execute\n"
        "from slipstream.trtllm_checkpoint.config import read_architecture\n"
        "import numpy as np\n"
        "d = Path(sys.argv[1])\n"
        "execute(d, read_architecture(d / 'config.json'), np.zeros((1, 4), np.int64), silent)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, str(planted.directory)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        process = psutil.Process(starter.pid)
        ranks = _wait_for(lambda: [child for child in process.children(recursive=True) if child.num_threads() > 1])
        os.kill(starter.pid, ending)
        starter.wait(20)
        assert _wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in ranks))
    finally:
        starter.kill()


def _wait_for(probe: Callable[[], Any]) -> Any:
    """What `probe` returns once it is something."""
    deadline = time.monotonic() + 30
    while not (value := probe()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert value
    return value


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["fp8", "nvfp4"])
def test_ranks_run_on_a_gpu(checkpoints: Make, models: Callable[[str], Path], method: Method) -> None:
    checkpoint = checkpoints(method, tp=2)
    verification = verify_checkpoint(checkpoint, model_dir=models("llama"), report=silent, device="cuda")
    assert verification.ok, verification_text(verification)
