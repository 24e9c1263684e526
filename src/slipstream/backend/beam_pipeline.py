"""Beam search in OpenVINO GenAI's pipeline. It tells nothing of a search before its end."""

from __future__ import annotations

from typing import Any

from slipstream.backend.beams import Beam, Beams
from slipstream.backend.kv_mirror import KvMirror
from slipstream.backend.messages import Ending, Generate, Tokens


def search(config: Any, request: Generate, beams: Beams) -> None:
    """Make the generation config of `request` one of a beam search."""
    from openvino_genai import StopCriteria

    config.num_beams = beams.width
    config.num_return_sequences = beams.num_returned
    config.length_penalty = beams.length_penalty
    config.stop_criteria = StopCriteria.EARLY if beams.ends_early else StopCriteria.HEURISTIC
    single = {word[0] for word in request.stop.stop_words if len(word) == 1}
    if single:
        config.stop_token_ids = single | ({request.stop.end_id} if request.stop.end_id is not None else set())
    if request.stop_texts:
        config.stop_strings = set(request.stop_texts)
        config.include_stop_str_in_output = True


NOT_FINITE = (
    "the model's logits hold NaN or infinity after this prompt: its weights are damaged, or its numbers overflow; build"
    " the engine again, or set runtime.execution to accuracy"
)


class OpenVinoBeams:
    """Keeps the pipeline's handle alive: dropping it would end the search."""

    def __init__(self, request: Generate, handle: Any, mirror: KvMirror, not_finite_id: int | None = None) -> None:
        self._request = request
        self._not_finite_id = not_finite_id
        self._handle = handle
        self._mirror = mirror
        self._start = mirror.add(request.handle, request.prompt_ids)  # what comes behind the prompt it cannot know

    def read(self) -> Tokens | None:
        failed = out_of_cache(self._request, self._handle, self._mirror)
        if failed is not None or not self._handle.can_read():
            return failed
        self._mirror.end(self._request.handle)
        found = sorted(self._handle.read().values(), key=lambda output: output.score, reverse=True)
        if any(self._not_finite_id in output.generated_ids for output in found):
            return Tokens(self._request.handle, [], None, Ending.FAILED, NOT_FINITE)
        best = found[: _wanted(self._request).num_returned]
        beams = tuple(self._beam(output) for output in best)
        return Tokens(self._request.handle, [], None, _ending(best[0]), start=self._start, beams=beams)

    def cancel(self) -> None:
        self._handle.cancel()
        self._mirror.cancel(self._request.handle)

    def _beam(self, output: Any) -> Beam:
        ids: list[int] = output.generated_ids
        log_probs: list[float] = output.generated_log_probs if self._request.log_probs else []
        cumulative = sum(log_probs)
        if ids and ids[-1] == self._request.stop.end_id:
            ids, log_probs = ids[:-1], log_probs[:-1]
        return Beam(ids, log_probs, cumulative)


def out_of_cache(request: Generate, handle: Any, mirror: KvMirror) -> Tokens | None:
    """The failure of a generation that the pipeline has given up, none while it goes on."""
    from openvino_genai import GenerationStatus

    if handle.get_status() != GenerationStatus.IGNORED:
        return None
    mirror.end(request.handle)
    failure = "the KV cache is too small for this request: shorten the prompt or the output"
    return Tokens(request.handle, [], None, Ending.FAILED, failure)


def _wanted(request: Generate) -> Beams:
    assert request.beams is not None
    return request.beams


def _ending(output: Any) -> Ending:
    from openvino_genai import GenerationFinishReason

    return Ending.END_ID if output.finish_reason == GenerationFinishReason.STOP else Ending.LENGTH
