"""One rank in a process of its own, started by `execute`, gone with it.

Its standard input is a pipe that the starter holds open and never writes to: it ends when the starter does, however
that came about, and a thread that waits for the end of it then ends this process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from slipstream.errors import SlipstreamError
from slipstream.trtllm_checkpoint.config import read_architecture
from slipstream.trtllm_checkpoint.ranks import rank_of
from slipstream.trtllm_checkpoint.shard import Shard

INPUT_IDS_FILE = "input_ids.npy"
RECORDED_FILE = "recorded.npy"  # the inputs of every layer, where they are known
LOGITS_FILE = "logits.npy"  # written by the first rank of the last stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one rank is to do."""

    checkpoint: Path
    folder: Path  # the input ids, the meeting point and the results
    rank: int
    device: str  # cpu, cuda:0 …
    threads: int


def run_rank(work: Work, lifeline: Connection) -> None:
    """The process's main function; a failure is left in the folder as rank{N}.error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the starter ends its ranks itself
    threading.Thread(target=_end_with_starter, args=(lifeline,), name="lifeline", daemon=True).start()
    try:
        _run(work)
    except Exception as error:  # noqa: BLE001 - whatever it is, it has to be said in another process
        text = str(error) if isinstance(error, SlipstreamError) else f"{type(error).__name__}: {error}"
        (work.folder / f"rank{work.rank}.error").write_text(text, encoding="utf-8")
        sys.exit(1)


def _run(work: Work) -> None:
    import numpy as np
    import torch

    from slipstream.quantize.verify.communication import Communication
    from slipstream.quantize.verify.decoder import RankDecoder

    torch.set_num_threads(work.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    architecture = read_architecture(work.checkpoint / "config.json")
    rank = rank_of(architecture, work.rank)
    shard = Shard(work.checkpoint / f"rank{work.rank}.safetensors")
    communication = Communication(architecture.parallelism, rank, work.folder / "meeting_point")
    decoder = RankDecoder(architecture, rank, shard, communication, work.device)
    layer_errors = {}
    with torch.inference_mode():
        logits = decoder(torch.from_numpy(np.load(work.folder / INPUT_IDS_FILE)).to(work.device))
        if (work.folder / RECORDED_FILE).exists():
            recorded = torch.from_numpy(np.load(work.folder / RECORDED_FILE)).to(work.device)
            layer_errors = decoder.layer_errors(recorded)
    results = {"input_ranges": decoder.input_ranges, "layer_errors": layer_errors}
    (work.folder / f"rank{work.rank}.json").write_text(json.dumps(results), encoding="utf-8")
    if logits is not None and rank.tp_rank == 0:
        np.save(work.folder / LOGITS_FILE, logits[..., : architecture.vocab_size].cpu().numpy())


def _end_with_starter(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
