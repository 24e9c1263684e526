"""Running a built engine in process: logits through plain OpenVINO, tokens through the pipeline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slipstream.engine.openvino import build_engine
from slipstream.progress import silent


def build(checkpoint: Path, *, max_seq_len: int = 256, tokenizer_dir: Path | None = None) -> Path:
    """Build the engine of `checkpoint` beside it."""
    out = checkpoint.with_name(f"{checkpoint.name}-engine")
    out.mkdir()
    build_engine(checkpoint, out, max_seq_len=max_seq_len, report=silent, tokenizer_dir=tokenizer_dir)
    return out


def logits(engine: Path, ids: npt.NDArray[np.int64], *, chunk: int) -> npt.NDArray[np.float32]:
    """Logits [batch, tokens, vocab_size] of `ids` [batch, tokens] in float32, fed `chunk` tokens at a time.

    The flag of logits that are not finite is left out.
    """
    import openvino

    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    request = core.compile_model(core.read_model(engine / "openvino_model.xml"), "CPU", hints).create_infer_request()
    batch, num_tokens = ids.shape
    outputs = []
    for start in range(0, num_tokens, chunk):
        end = min(start + chunk, num_tokens)
        outputs.append(
            request.infer(
                {
                    "input_ids": ids[:, start:end],
                    "attention_mask": np.ones((batch, end), np.int64),
                    "position_ids": np.tile(np.arange(start, end), (batch, 1)),
                    "beam_idx": np.arange(batch, dtype=np.int32),
                }
            )["logits"][..., :-1].copy()
        )
    return np.concatenate(outputs, axis=1)


def pipeline(engine: Path, execution: str) -> Any:
    """The pipeline on the engine's own properties of an execution mode."""
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 1
    scheduler.max_num_seqs = 32
    scheduler.max_num_batched_tokens = 512
    properties = json.loads((engine / "engine.json").read_text())["execution"][execution]
    return openvino_genai.ContinuousBatchingPipeline(str(engine), scheduler, "CPU", properties)


def greedy(pipe: Any, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[list[int]]:
    """`num_tokens` greedy tokens after every prompt, all of them in flight at once."""
    import openvino
    import openvino_genai

    settings = openvino_genai.GenerationConfig()
    settings.max_new_tokens, settings.ignore_eos, settings.do_sample = num_tokens, True, False
    # An end id must be set even to be ignored: an engine that knows none has -1, and the pipeline refuses that.
    settings.set_eos_token_id(0)
    handles = [
        pipe.add_request(number, openvino.Tensor(np.array([prompt], np.int64)), settings)
        for number, prompt in enumerate(prompts)
    ]
    while pipe.has_non_finished_requests():
        pipe.step()
    return [list(handle.read_all()[0].generated_ids) for handle in handles]
