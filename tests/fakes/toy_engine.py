"""A stand-in for TensorRT-LLM's C++ backend in the `tensorrt_llm` slot: a toy language model over token ids.

Copied as `1/model.py` of a Python-backend model; it shares no code with Slipstream. What it does with its tensors
follows TensorRT-LLM 1.2.1's backend (`utils.cc`, `llmRequest.cpp`, `model_instance_state.cc`): the prompt is echoed
unless the request or the parameter says otherwise, the end id is no part of the output and `min_tokens` masks it, a
stop word may begin in the prompt, draft ids are verified greedily and one token of its own follows them, a request's
length is clamped to `max_seq_len`. Behind a draft it writes on after a stop word, and only looks for one at the tail.

Knobs of a test, in tensors that mean nothing to a toy: `temperature`, the share of the draft's tokens that are right;
`len_penalty`, see `_FAULTS` and what follows it; `presence_penalty`, seconds that a call takes.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

FIRST, SPAN = 1000, 400  # the ids that it writes
VOCABULARY = 1408
_FAULTS = {101.0: ("draft", 1), 102.0: ("target", 1), 103.0: ("target", 2), 104.0: ("draft", 3)}  # who, at which call
_NO_LOGITS, _NO_ECHO = 105.0, 106.0  # an engine that gathers none, one that never echoes


class EngineError(Exception):
    """What the engine answers with an error."""


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self._parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._is_decoupled = config["model_transaction_policy"]["decoupled"]
        self._is_draft = self._parameters["toy_role"] == "draft"
        self._calls: Counter[str] = Counter()

    def execute(self, requests: list[Any]) -> list[Any] | None:
        if not self._is_decoupled:
            return [self._answers(request)[0] for request in requests]
        for request in requests:
            sender = request.get_response_sender()
            for answer in self._answers(request):
                sender.send(answer)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None

    def _answers(self, request: Any) -> list[Any]:
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        self._log(request, given)
        if given.get("stop", np.zeros(1)).any():
            return [pb_utils.InferenceResponse([])]
        try:
            return self._generate(request, given)
        except EngineError as error:
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))]

    def _generate(self, request: Any, given: dict[str, Any]) -> list[Any]:
        time.sleep(_one(given, "presence_penalty", 0.0))
        self._fail_if_told(request.request_id(), given)
        ids, draft, most = self._accepted(given)
        if self._is_draft:
            new = self._propose(ids, most, given)
        else:
            new = _verified(ids, draft, most, given) if draft else _alone(ids, most, given, draft)
        if _one(given, "streaming", False):
            if not self._is_decoupled:
                raise EngineError("Streaming is only supported if model is deployed using decoupled mode.")
            return [_response(request, given, [], [token], draft) for token in new]
        excluded = _one(given, "exclude_input_in_output", self._parameters["exclude_input_in_output"] == "true")
        echo = [] if excluded or _one(given, "len_penalty", 0.0) == _NO_ECHO else ids
        return [_response(request, given, echo, new, draft)]

    def _accepted(self, given: dict[str, Any]) -> tuple[list[int], list[int], int]:
        """Prompt, draft and output length after the checks and clamps of a request."""
        if given["input_ids"].shape[0] != 1:
            raise EngineError(
                "Batch size > 1 requires the tensorrt_llm backend to be using decoupled transaction policy"
            )
        ids = given["input_ids"].reshape(-1).tolist()
        draft = given["draft_input_ids"].reshape(-1).tolist() if "draft_input_ids" in given else []
        most = _one(given, "request_output_len", 0)
        longest_draft = int(self._parameters["toy_max_draft_len"])
        longest = int(self._parameters["toy_max_seq_len"]) + longest_draft
        if len(draft) > longest_draft:
            raise EngineError(
                f"Draft tokens length ({len(draft)}) exceeds maximum draft tokens length ({longest_draft})."
            )
        if len(ids) > longest - 1:
            raise EngineError(f"Prompt length ({len(ids)}) exceeds maximum input length ({longest - 1}).")
        if self._is_draft and {"lora_task_id", "draft_input_ids", "return_log_probs"} & set(given):
            raise EngineError("the draft engine got what is meant for the target")
        most = min(most, longest - len(ids) - (len(draft) or longest_draft))
        if most < 1:
            raise EngineError(f"Assertion failed: mMaxNewTokens > 0 ({most})")
        _check_logits(given, draft)
        return ids, draft, most

    def _propose(self, ids: list[int], most: int, given: dict[str, Any]) -> list[int]:
        right = _one(given, "temperature", 1.0)
        new: list[int] = []
        while len(new) < most:
            token = _next([*ids, *new], given, may_end=len(new) >= _one(given, "min_tokens", 0))
            if token is None:
                break
            if _hash([*ids, *new, 7]) % 100 >= right * 100:
                token = FIRST + (token - FIRST + 1) % SPAN
            new.append(token)
            if _stops([*ids, *new], given):
                break
        return new

    def _fail_if_told(self, request_id: str, given: dict[str, Any]) -> None:
        self._calls[request_id] += 1
        role, call = _FAULTS.get(_one(given, "len_penalty", 0.0), ("", 0))
        if role == self._parameters["toy_role"] and self._calls[request_id] == call:
            raise EngineError(f"the {role} is out of luck")

    def _log(self, request: Any, given: dict[str, Any]) -> None:
        line = {name: value[0].tolist() for name, value in given.items() if name != "draft_logits"}
        line |= {"role": self._parameters["toy_role"], "request_id": request.request_id()}
        line |= {"logits_shape": list(given["draft_logits"].shape)} if "draft_logits" in given else {}
        with Path(self._parameters["toy_log"]).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


def _alone(ids: list[int], most: int, given: dict[str, Any], draft: list[int]) -> list[int]:
    new: list[int] = []
    while len(new) < most and not (new and _stops([*ids, *new], given)):
        token = _next([*ids, *new], given, may_end=len(new) >= _one(given, "min_tokens", 0))
        if token is None:
            break
        new.append(token)
    return new


def _verified(ids: list[int], draft: list[int], most: int, given: dict[str, Any]) -> list[int]:
    new: list[int] = []
    while len(new) < most:
        token = _next([*ids, *new], given, may_end=len(new) >= _one(given, "min_tokens", 0))
        if token is None:
            break
        new.append(token)
        if len(new) > len(draft) or token != draft[len(new) - 1]:
            break
    return new


def _next(ids: list[int], given: dict[str, Any], *, may_end: bool) -> int | None:
    """The most probable token after `ids`; none for the end id."""
    value = _hash(ids)
    if may_end and _one(given, "end_id", -1) >= 0 and value % 29 == 0:
        return None
    return FIRST + value // 29 % SPAN


def _hash(ids: list[int]) -> int:
    return zlib.crc32(np.array(ids[-3:], np.int32).tobytes())


def _stops(ids: list[int], given: dict[str, Any]) -> bool:
    if "stop_words_list" not in given:
        return False
    flat, ends = given["stop_words_list"].reshape(2, -1).tolist()
    start = 0
    for end in ends:
        if end < 0:
            break
        if ids[-(end - start) :] == flat[start:end]:
            return True
        start = end
    return False


def _check_logits(given: dict[str, Any], draft: list[int]) -> None:
    if "draft_logits" not in given:
        return
    logits = given["draft_logits"]
    if logits.shape != (1, len(draft), VOCABULARY) or logits.dtype != np.float32:
        raise EngineError(f"draft_logits has shape {logits.shape}, there are {len(draft)} draft tokens")
    if logits[0].argmax(axis=-1).tolist() != draft:
        raise EngineError("draft_logits are not those of draft_input_ids")


def _response(request: Any, given: dict[str, Any], prompt: list[int], new: list[int], draft: list[int]) -> Any:
    ids = [*prompt, *new]
    tensors = {"output_ids": np.array([[ids]], np.int32), "sequence_length": np.array([[len(ids)]], np.int32)}
    if _one(given, "return_log_probs", False):
        log_probs = [-(token - FIRST) / SPAN for token in new]
        tensors["output_log_probs"] = np.array([[log_probs]], np.float32)
        tensors["cum_log_probs"] = np.array([[sum(log_probs)]], np.float32)
    if _one(given, "return_generation_logits", False) and _one(given, "len_penalty", 0.0) != _NO_LOGITS:
        tensors["generation_logits"] = np.zeros((1, 1, len(new), VOCABULARY), np.float32)
        tensors["generation_logits"][0, 0, range(len(new)), new] = 1
    if _one(given, "return_perf_metrics", False):
        tensors |= _metrics(new, draft)
    wanted = request.requested_output_names()
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, tensors[name]) for name in wanted if name in tensors])


def _metrics(new: list[int], draft: list[int]) -> dict[str, Any]:
    accepted = len(new) - 1
    now = time.monotonic_ns()
    times = {"arrival_time_ns": now, "first_scheduled_time_ns": now, "first_token_time_ns": now + 1}
    times["last_token_time_ns"] = now + 2
    counts = {"kv_cache_alloc_new_blocks": 1, "kv_cache_reused_blocks": 2, "kv_cache_alloc_total_blocks": 3}
    counts |= {"total_accepted_draft_tokens": accepted, "total_draft_tokens": len(draft)}
    tensors: dict[str, Any] = {name: np.array([[value]], np.int64) for name, value in times.items()}
    tensors |= {name: np.array([[value]], np.int32) for name, value in counts.items()}
    return tensors | {"acceptance_rate": np.array([[accepted / max(len(draft), 1)]], np.float32)}


def _one(given: dict[str, Any], name: str, default: Any) -> Any:
    return given[name].reshape(-1)[0].item() if name in given and given[name].size else default
