"""The `tensorrt_llm` model: TensorRT-LLM's tensors in front of the in-flight batching engine."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import Any

from slipstream.backend.characters import Characters
from slipstream.backend.engine import Engine
from slipstream.backend.gauges import Gauges
from slipstream.backend.guide_checks import GuideChecks, Verdict
from slipstream.backend.guide_trial_process import GuideTrialProcess
from slipstream.backend.orphan import end_with_server
from slipstream.backend.parameters import Limits, ModelConfig, PipelineSettings, speculation_policy
from slipstream.backend.pipeline import engine_facts, kv_blocks
from slipstream.backend.presence import Presences
from slipstream.backend.requests import GenerationRequest, ModelProfile, read_request
from slipstream.backend.speculation import PARAMETER
from slipstream.backend.step_process import StepProcess
from slipstream.backend.stream import Vocabulary
from slipstream.backend.stream_interval import StreamInterval
from slipstream.backend.tensors import RequestRefusedError, Tensors, flag
from slipstream.backend.trailer import is_watch, read_presence_id, read_stop_handle
from slipstream.backend.triton import TritonReply, input_tensors, request_parameter
from slipstream.backend.watch import Watch
from slipstream.text.tokenizer import Tokenizer


class EngineModel:
    """What Triton calls; `execute` returns at once and responses follow from the engine's own thread."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the engine; an error here fails the load of the model."""
        self._server_process_id = os.getppid()
        end_with_server()
        config = ModelConfig.of(args["model_config"])
        settings = PipelineSettings.of(config)
        facts = engine_facts(settings.engine_dir)
        limits = Limits.of(config, vocab_size=int(facts["vocab_size"]))
        self._profile = ModelProfile(
            limits=limits,
            decoupled=config.decoupled,
            exclude_input_in_output=config.flag("exclude_input_in_output", default=False),
            bans_words=bool(facts.get("has_tokenizer", False)),
            speculation=speculation_policy(config),
        )
        self._guides = GuideChecks(GuideTrialProcess(settings.engine_dir))
        self._presences = Presences()
        changed = threading.Event()
        self._engine = Engine(
            lambda: StepProcess(settings),
            limits=limits,
            vocabulary=_vocabulary(config),
            stream_interval=StreamInterval.of(config),
            changed=changed,
        )
        self._gauges = Gauges(
            model=config.name,
            version=str(args.get("model_version", "1")),
            limits=limits,
            max_kv_blocks=kv_blocks(settings),
        )
        self._watch = Watch(
            self._engine.checks,
            lambda: self._gauges.refresh(self._engine),
            changed,
            check_period_s=config.whole("cancellation_check_period_ms", default=100) / 1000,
            refresh_period_s=config.whole("stats_check_period_ms", default=100) / 1000,
            step_s=lambda: self._engine.step_s,
        )
        self._watch.start()

    def execute(self, requests: list[Any]) -> None:
        """Hand every request to the engine; each is answered by its own response sender."""
        for request in requests:
            reply = TritonReply(request)
            try:
                self._take(request, reply)
            except RequestRefusedError as error:
                reply.refuse(str(error))

    def finalize(self) -> None:
        """Fail what is in flight and leave no thread and no process."""
        if os.getppid() != self._server_process_id:
            # Killed or crashed: whoever sends to it now waits for ever.
            self._guides.abandon()
            self._engine.abandon()
            return
        self._watch.close()
        self._guides.close()
        self._engine.close()
        self._gauges.close()

    def _take(self, request: Any, reply: TritonReply) -> None:
        tensors = input_tensors(request)
        if flag(tensors, "stop"):
            self._stop(tensors, request.request_id(), reply)
            return
        presence_id = read_presence_id(tensors)
        if presence_id is not None and is_watch(tensors):
            reply.watch(self._presences, presence_id)
            return
        generation = read_request(
            tensors,
            request_id=request.request_id(),
            profile=self._profile,
            speculation=request_parameter(request, PARAMETER),
        )
        if presence_id is not None:
            reply.enter(self._presences, presence_id)
        if generation.stop.guide is None:
            self._engine.submit(generation, reply)
        else:
            self._guides.settle(generation.stop.guide, generation.request_id, partial(self._begin, generation, reply))

    def _begin(self, generation: GenerationRequest, reply: TritonReply, verdict: Verdict) -> None:
        """Hand a request whose guide has been tried to the engine, from the thread of the checks or from Triton's."""
        if verdict.refusal:
            reply.refuse(verdict.refusal)
            return
        try:
            handle = self._engine.submit(generation, reply)
            if verdict.is_stopped:
                self._engine.cancel(handle)
        except RequestRefusedError as error:
            reply.refuse(str(error))

    def _stop(self, tensors: Tensors, request_id: str, reply: TritonReply) -> None:
        handle = read_stop_handle(tensors)
        if handle is not None:
            self._engine.cancel(handle)
        elif request_id:
            self._guides.stop(request_id)
            self._engine.cancel_request(request_id)
        else:
            raise RequestRefusedError("stop is true, but the request has no id: give the id of the request to stop")
        reply.close(decoupled=self._profile.decoupled)


def _vocabulary(config: ModelConfig) -> Vocabulary | None:
    """None without a tokenizer_dir: clients that speak ids alone need none."""
    directory = config.parameters.get("tokenizer_dir", "")
    if not directory or directory.startswith("${"):
        return None
    tokenizer = Tokenizer.load(directory)
    return Vocabulary(tokenizer=tokenizer, characters=Characters(tokenizer))
