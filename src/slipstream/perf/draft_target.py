"""What draft-target speculation and logits cost on the embedded server, one request at a time.

A step of speculation is two requests, and the target's engine writes as many tokens in it as it would alone, so there
is nothing to win here; the figure says how much is lost.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np

from slipstream.pipeline import Context
from slipstream.progress import Reporter
from slipstream.serve.supervise import served
from slipstream.text.tokenizer import Tokenizer

PROMPT = "Once upon a time, in a small village by the sea,"
TOKENS = 64
DRAFTS = (1, 3, 5)
LOGITS_PROMPTS = (16, 128, 340)  # tokens; 341 x 49152 logits are 64 MiB
_DTYPES = {"bool": "BOOL", "int32": "INT32", "object": "BYTES"}


def measure_draft_target(context: Context, report: Reporter, *, rounds: int = 5) -> dict[str, Any]:
    """Seconds of whole requests, the median of `rounds`; serves the deployment meanwhile."""
    from tritonclient.grpc import InferenceServerClient

    spec, workspace = context.spec, context.workspace
    tokenizer = Tokenizer.load(workspace.model)
    with (
        served(spec, workspace.model_repository, workspace.run, report) as deployment,
        InferenceServerClient(deployment.server.endpoints.grpc) as client,
    ):
        report("speculation")
        speculation = [_speculation(client, wishes, rounds) for wishes in _wishes()]
        report("logits")
        ids = tokenizer.encode(PROMPT * 40)
        logits = [_logits(client, ids[:length], rounds) for length in LOGITS_PROMPTS]
    return {"execution": spec.runtime.execution, "tokens": TOKENS, "speculation": speculation, "logits": logits}


def _wishes() -> list[dict[str, Any]]:
    drafted = [{"num_draft_tokens": count} for count in DRAFTS]
    return [{}, *drafted, {"num_draft_tokens": 3, "use_draft_logits": True, "top_k": 20}]


def _speculation(client: Any, wishes: dict[str, Any], rounds: int) -> dict[str, Any]:
    asked = {"text_input": PROMPT, "max_tokens": TOKENS, "stream": False, "end_id": -1, "return_perf_metrics": True}
    seconds, result = _timed(client, "tensorrt_llm_bls", asked | wishes, rounds)
    return {**wishes, "seconds": seconds, "acceptance_rate": round(float(result.as_numpy("acceptance_rate").item()), 3)}


def _logits(client: Any, ids: list[int], rounds: int) -> dict[str, Any]:
    asked = {"input_ids": np.array([ids], np.int32), "input_lengths": len(ids), "request_output_len": 1}
    without, _ = _timed(client, "tensorrt_llm", asked, rounds)
    seconds, _ = _timed(client, "tensorrt_llm", asked | {"return_context_logits": True}, rounds)
    return {"prompt_tokens": len(ids), "seconds": seconds, "seconds_without": without}


def _timed(client: Any, model: str, values: dict[str, Any], rounds: int) -> tuple[float, Any]:
    """The median of `rounds` after one that is not counted, and the last response."""
    seconds = []
    for _ in range(rounds + 1):
        started = time.monotonic()
        result = client.infer(model, [_input(name, value) for name, value in values.items()])
        seconds.append(time.monotonic() - started)
    return round(median(seconds[1:]), 4), result


def _input(name: str, value: Any) -> Any:
    from tritonclient.grpc import InferInput

    array = value if isinstance(value, np.ndarray) else _one(value)
    tensor = InferInput(name, list(array.shape), _DTYPES[array.dtype.name])
    tensor.set_data_from_numpy(array)
    return tensor


def _one(value: str | bool | int) -> np.ndarray[Any, np.dtype[Any]]:
    if isinstance(value, str):
        return np.array([[value.encode()]], np.object_)
    return np.array([[value]], np.bool_ if isinstance(value, bool) else np.int32)
