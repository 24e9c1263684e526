"""The `tensorrt_llm` model: TensorRT-LLM's tensors in front of the in-flight batching engine."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import Any, Protocol

from slipstream.backend.characters import Characters
from slipstream.backend.draft_verification import NO_HANDLE, verify
from slipstream.backend.engine import Engine, Reply
from slipstream.backend.gauges import Gauges
from slipstream.backend.guide import Guide
from slipstream.backend.guide_checks import GuideChecks, Verdict
from slipstream.backend.guide_trial_process import GuideTrialProcess
from slipstream.backend.link import Ask
from slipstream.backend.link_server import LinkReply, LinkServer
from slipstream.backend.logits_process import LogitsProcess
from slipstream.backend.logits_replies import LogitsQueue, LogitsReply
from slipstream.backend.orphan import end_with_server
from slipstream.backend.parameters import Limits, ModelConfig, PipelineSettings, speculation_policy
from slipstream.backend.pipeline import engine_facts, kv_blocks
from slipstream.backend.presence import Presences
from slipstream.backend.requests import GenerationRequest, ModelProfile
from slipstream.backend.sequences import read_requests
from slipstream.backend.speculation import PARAMETER
from slipstream.backend.step_process import StepProcess
from slipstream.backend.stream import Stream, Vocabulary
from slipstream.backend.stream_interval import StreamInterval
from slipstream.backend.tensors import RequestRefusedError, Tensors, first_flag
from slipstream.backend.trailer import is_watch, read_presence_id, read_stop_handle
from slipstream.backend.triton import TritonReply, input_tensors, request_parameter
from slipstream.backend.watch import Watch
from slipstream.text.tokenizer import Tokenizer


class RequestReply(Reply, Protocol):
    """The way back to whoever sent a request."""

    def expect(self, generations: int) -> None:
        """So many generations will answer; to be said before the first one does."""

    def refuse(self, message: str) -> None:
        """End the request: it cannot be served as it is."""


class EngineModel:
    """What Triton calls; `execute` returns at once and responses follow from the engine's own thread."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the engine; an error here fails the load of the model."""
        self._server_process_id = os.getppid()
        end_with_server()
        config = ModelConfig.of(args["model_config"])
        settings = PipelineSettings.of(config)
        facts = engine_facts(settings.engine_dir)
        blocks = kv_blocks(settings)
        limits = Limits.of(config, vocab_size=int(facts["vocab_size"]), settings=settings, kv_blocks=blocks)
        self._profile = _profile(config, limits, has_tokenizer=bool(facts.get("has_tokenizer", False)))
        self._logits = LogitsQueue(LogitsProcess(settings))
        self._vocabulary = _vocabulary(config)
        self._guides = GuideChecks(GuideTrialProcess(settings.engine_dir))
        self._presences = Presences()
        changed = threading.Event()
        self._engine = Engine(
            lambda: StepProcess(settings),
            limits=limits,
            vocabulary=self._vocabulary,
            stream_interval=StreamInterval.of(config),
            changed=changed,
            step_timeout_s=config.whole("slipstream_step_timeout_s", default=30),
        )
        self._gauges = Gauges(
            model=config.name,
            version=str(args.get("model_version", "1")),
            limits=limits,
            max_kv_blocks=blocks,
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
        self._link = LinkServer(self._server_process_id, config.name, self._take_asked, self._engine.look_after_all)
        self._engine.after_round = self._link.flush

    def _take_asked(self, ask: Ask, reply: LinkReply) -> None:
        """A request of the BLS model, on a thread of the link."""
        try:
            self._begin_all(
                ask.tensors, "", reply, speculation=ask.parameters.get(PARAMETER), timeout_us=ask.timeout_us
            )
        except RequestRefusedError as error:
            reply.refuse(str(error))

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
            self._logits.abandon()
            self._engine.abandon()
            return
        self._link.close()
        self._watch.close()
        self._guides.close()
        self._engine.close()
        self._logits.close()
        self._gauges.close()

    def _take(self, request: Any, reply: TritonReply) -> None:
        tensors = input_tensors(request)
        if first_flag(tensors, "stop"):
            self._stop(tensors, request.request_id(), reply)
            return
        presence_id = read_presence_id(tensors)
        if presence_id is not None and is_watch(tensors):
            reply.watch(self._presences, presence_id)
            return
        if presence_id is not None:
            reply.enter(self._presences, presence_id)
        self._begin_all(
            tensors,
            request.request_id(),
            reply,
            speculation=request_parameter(request, PARAMETER),
            timeout_us=request.timeout(),
        )

    def _begin_all(
        self, tensors: Tensors, request_id: str, reply: RequestReply, *, speculation: str | None, timeout_us: int
    ) -> None:
        """Begin the generations of one request; `RequestRefusedError` says what cannot be done."""
        generations = read_requests(
            tensors, request_id=request_id, profile=self._profile, speculation=speculation, timeout_us=timeout_us
        )
        reply.expect(len(generations))
        if generations[0].acceptance is not None:
            self._verify(generations[0], reply)
            return
        guides = dict.fromkeys(one.stop.guide for one in generations if one.stop.guide is not None)
        self._begin(generations, tuple(guides), reply, Verdict(refusal="", is_stopped=False))

    def _begin(
        self,
        generations: tuple[GenerationRequest, ...],
        guides: tuple[Guide, ...],
        reply: RequestReply,
        verdict: Verdict,
    ) -> None:
        """Try the next of `guides`, and hand the generations to the engine when all have been found good.

        Runs on Triton's thread, or on that of the checks.
        """
        if verdict.refusal:
            reply.refuse(verdict.refusal)
            return
        try:
            if guides and not verdict.is_stopped:
                then = partial(self._begin, generations, guides[1:], reply)
                self._guides.settle(guides[0], generations[0].request_id, then)
                return
            handles = self._engine.submit_all(generations, self._with_logits(generations, reply))
            if verdict.is_stopped:
                for handle in handles:
                    self._engine.cancel(handle)
        except RequestRefusedError as error:
            reply.refuse(str(error))

    def _verify(self, generation: GenerationRequest, reply: RequestReply) -> None:
        """Verify a draft by probabilities; the engine hears nothing of it."""
        stream = Stream(handle=NO_HANDLE, request=generation, vocabulary=self._vocabulary, interval=1)
        answer = self._with_logits((generation,), reply)
        self._logits.admit()
        self._logits.put(lambda rows: verify(stream, answer, rows))

    def _with_logits(self, generations: tuple[GenerationRequest, ...], reply: RequestReply) -> Reply:
        if all(generation.logits is None for generation in generations):
            return reply
        self._logits.admit()
        return LogitsReply(reply, self._logits)

    def _stop(self, tensors: Tensors, request_id: str, reply: TritonReply) -> None:
        handle = read_stop_handle(tensors)
        if handle is not None:
            self._engine.cancel_with_siblings(handle)
        elif request_id:
            self._guides.stop(request_id)
            self._engine.cancel_request(request_id)
        else:
            raise RequestRefusedError("stop is true, but the request has no id: give the id of the request to stop")
        reply.close(decoupled=self._profile.decoupled)


def _profile(config: ModelConfig, limits: Limits, *, has_tokenizer: bool) -> ModelProfile:
    return ModelProfile(
        limits=limits,
        decoupled=config.decoupled,
        exclude_input_in_output=config.flag("exclude_input_in_output", default=False),
        bans_words=has_tokenizer,
        speculation=speculation_policy(config),
        request_timeout_us=config.whole("slipstream_request_timeout_s", default=0) * 1_000_000,
    )


def _vocabulary(config: ModelConfig) -> Vocabulary | None:
    """None without a tokenizer_dir: clients that speak ids alone need none."""
    directory = config.parameters.get("tokenizer_dir", "")
    if not directory or directory.startswith("${"):
        return None
    tokenizer = Tokenizer.load(directory)
    return Vocabulary(tokenizer=tokenizer, characters=Characters(tokenizer))
