"""OpenVINO GenAI's continuous-batching pipeline behind the few calls that the step loop needs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from slipstream.backend.bad_words import grammar_without
from slipstream.backend.beam_pipeline import NOT_FINITE, OpenVinoBeams, out_of_cache, search
from slipstream.backend.guide import structured_output
from slipstream.backend.kv_mirror import BLOCK_TOKENS, KvMirror
from slipstream.backend.messages import Ending, Generate, Start, Tokens
from slipstream.backend.parameters import PipelineSettings
from slipstream.backend.requests import Sampling
from slipstream.backend.speculation import MAX_MATCHING_NGRAM_SIZE, Speculation
from slipstream.errors import SlipstreamError

ENGINE_FILE = "engine.json"
KV_BLOCK_TOKENS = BLOCK_TOKENS
_SCALE_BYTES = 8  # a float32 scale and a float32 zero point


class Generation(Protocol):
    """One running request."""

    def read(self) -> Tokens | None:
        """What it got since the last call; none when there is nothing new."""

    def cancel(self) -> None:
        """Free its slot and KV blocks before the next step."""


class Pipeline(Protocol):
    """Runs any number of generations, one token each in a step; several where they speculate."""

    def add(self, request: Generate) -> Generation:
        """Begin `request` with the next step."""

    def step(self) -> None:
        """Compute the next token of every generation that is scheduled."""

    def kv_cache_usage(self) -> float:
        """Share of the KV cache in use, 0..1, as of the last step."""

    def kv_cache_bytes(self) -> int:
        """Size of the KV cache."""

    def speculating(self) -> int:
        """Requests that speculate."""


class OpenVinoPipeline:
    """The pipeline on a CPU. Its `step` holds Python's global lock, hence the process of its own.

    With `speculation` it takes only requests that speculate: OpenVINO has one kind of pipeline for each.
    """

    def __init__(self, settings: PipelineSettings, speculation: Speculation | None = None) -> None:
        import openvino_genai

        self._speculation = speculation
        self._not_finite_id: int | None = engine_facts(settings.engine_dir).get("not_finite_id")
        properties = _properties(settings) | _speculative(settings, speculation)
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(settings.engine_dir), _scheduler(settings), "CPU", properties
        )
        self._metrics = self._pipeline.get_metrics()
        self._kv_blocks = kv_blocks(settings)
        self._mirror = KvMirror(
            blocks=self._kv_blocks,
            max_num_tokens=settings.tokens_in_a_step,
            max_num_seqs=settings.max_batch_size,
            caching=settings.enable_kv_cache_reuse,
            splits=settings.enable_chunked_context,
        )

    def add(self, request: Generate) -> Generation:
        import numpy as np
        import openvino

        prompt = openvino.Tensor(np.array([request.prompt_ids], np.int64))
        config = _generation_config(request)
        if self._speculation is not None:
            config.num_assistant_tokens = self._speculation.max_draft_len
            if self._speculation.draft_engine_dir is None:
                config.max_ngram_size = MAX_MATCHING_NGRAM_SIZE
        handle = self._pipeline.add_request(request.handle, prompt, config)
        if request.beams is not None:
            return OpenVinoBeams(request, handle, self._mirror, self._not_finite_id)
        return OpenVinoGeneration(request, handle, self._mirror, self._not_finite_id)

    def step(self) -> None:
        self._mirror.begin_step(time.monotonic_ns())
        self._pipeline.step()
        self._metrics = self._pipeline.get_metrics()
        self._check_mirror()

    def kv_cache_usage(self) -> float:
        return float(self._metrics.cache_usage) / 100

    def kv_cache_bytes(self) -> int:
        return int(self._pipeline.get_metrics().cache_size_in_bytes)

    def speculating(self) -> int:
        return 0

    def _check_mirror(self) -> None:
        was_exact = self._mirror.is_exact
        self._mirror.end_step(
            scheduled_requests=self._metrics.scheduled_requests,
            used_blocks=round(self.kv_cache_usage() * self._kv_blocks),
        )
        # Of steps that speculate the mirror has estimates from the beginning.
        if was_exact and not self._mirror.is_exact and self._speculation is None:
            print(
                "the figures of KV reuse are estimates from now on, until the engine is loaded again", file=sys.stderr
            )


class OpenVinoGeneration:
    """Keeps the pipeline's handle alive: dropping it would end the request."""

    def __init__(self, request: Generate, handle: Any, mirror: KvMirror, not_finite_id: int | None) -> None:
        self._request = request
        self._not_finite_id = not_finite_id
        self._handle = handle
        self._mirror = mirror
        self._start: Start | None = mirror.add(request.handle, request.prompt_ids)
        self._count = 0

    def read(self) -> Tokens | None:
        if not self._handle.can_read():
            return self._ending_without_tokens()
        output = next(iter(self._handle.read().values()))
        ids: list[int] = output.generated_ids
        if self._not_finite_id in ids:
            self.cancel()
            return Tokens(self._request.handle, [], None, Ending.FAILED, NOT_FINITE)
        log_probs = output.generated_log_probs if self._request.log_probs else None
        self._count += len(ids)
        ending = _ending(output.finish_reason)
        self._mirror.push(self._request.handle, ids)
        if ending is not None:
            self._mirror.end(self._request.handle)
        if ending is Ending.END_ID and ids and ids[-1] == self._request.stop.end_id:
            # As in TensorRT-LLM, the token that ends a text is not part of it.
            ids, log_probs = ids[:-1], None if log_probs is None else log_probs[:-1]
        start, self._start = self._start, None
        return Tokens(self._request.handle, ids, log_probs, ending, start=start)

    def cancel(self) -> None:
        self._handle.cancel()
        self._mirror.cancel(self._request.handle)

    def _ending_without_tokens(self) -> Tokens | None:
        return out_of_cache(self._request, self._handle, self._mirror)


def engine_facts(engine_dir: Path) -> dict[str, Any]:
    """The engine's own description; its build writes it beside the graph."""
    path = engine_dir / ENGINE_FILE
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SlipstreamError(f"{path}: cannot be read ({error})", mend="build the engine again") from error
    return facts


def kv_block_bytes(facts: dict[str, Any], execution: str) -> int:
    """Size of one block of `KV_BLOCK_TOKENS` tokens in the KV cache, all layers.

    In 8 bits, keys carry a scale and a zero point a channel of each block, values carry them a token.
    """
    tokens, head_size = KV_BLOCK_TOKENS, int(facts["head_size"])
    if facts["execution"][execution].get("KV_CACHE_PRECISION") == "u8":
        head_bytes = head_size * (tokens + _SCALE_BYTES) + tokens * (head_size + _SCALE_BYTES)
    else:
        head_bytes = 2 * 4 * tokens * head_size
    return head_bytes * int(facts["num_kv_heads"]) * int(facts["num_layers"])


def kv_blocks(settings: PipelineSettings) -> int:
    """How many blocks the KV cache has."""
    bytes_of_one = kv_block_bytes(engine_facts(settings.engine_dir), settings.execution)
    fit = (settings.kv_cache_gib << 30) // bytes_of_one
    return fit if settings.kv_cache_tokens is None else min(fit, -(-settings.kv_cache_tokens // KV_BLOCK_TOKENS))


def _scheduler(settings: PipelineSettings) -> Any:
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = kv_blocks(settings)
    scheduler.max_num_batched_tokens = settings.tokens_in_a_step
    scheduler.max_num_seqs = settings.max_batch_size
    scheduler.dynamic_split_fuse = settings.enable_chunked_context
    scheduler.enable_prefix_caching = settings.enable_kv_cache_reuse
    return scheduler


def _properties(settings: PipelineSettings) -> dict[str, Any]:
    properties: dict[str, Any] = engine_facts(settings.engine_dir)["execution"][settings.execution]
    return properties


def _speculative(settings: PipelineSettings, speculation: Speculation | None) -> dict[str, Any]:
    import openvino_genai

    if speculation is None:
        return {}
    if speculation.draft_engine_dir is None:
        return {"prompt_lookup": True}
    # Without a scheduler of its own the draft would take its KV cache out of the target's.
    draft = openvino_genai.draft_model(
        str(speculation.draft_engine_dir),
        "CPU",
        scheduler_config=_scheduler(settings),
        **engine_facts(speculation.draft_engine_dir)["execution"][settings.execution],
    )
    return {"draft_model": draft}


def _generation_config(request: Generate) -> Any:
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    config.apply_chat_template = False
    config.max_new_tokens = request.stop.max_new_tokens
    config.min_new_tokens = request.stop.min_new_tokens
    if request.stop.end_id is None:
        config.ignore_eos = True
    else:
        config.set_eos_token_id(request.stop.end_id)
    config.repetition_penalty = request.penalties.repetition
    config.presence_penalty = request.penalties.presence
    config.frequency_penalty = request.penalties.frequency
    config.logprobs = 1 if request.log_probs else 0
    if request.sampling is not None:
        _sample(config, request.sampling)
    if request.beams is not None:
        search(config, request, request.beams)
    if request.stop.guide is not None:
        config.structured_output_config = structured_output(request.stop.guide)
    elif request.bad_texts:
        config.structured_output_config = openvino_genai.StructuredOutputConfig(
            grammar=grammar_without(request.bad_texts)
        )
    return config


def _sample(config: Any, sampling: Sampling) -> None:
    config.do_sample = True
    config.temperature = sampling.temperature
    config.rng_seed = sampling.seed
    if sampling.top_k is not None:
        config.top_k = sampling.top_k
    if sampling.top_p is not None:
        config.top_p = sampling.top_p


def _ending(reason: Any) -> Ending | None:
    from openvino_genai import GenerationFinishReason

    if reason == GenerationFinishReason.STOP:
        return Ending.END_ID
    if reason == GenerationFinishReason.LENGTH:
        return Ending.LENGTH
    return None
