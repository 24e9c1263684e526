"""The `tensorrt_llm_bls` model: text in, text out, with tokenizing, detokenizing and speculation in process.

On the embedded server it asks the engine's model over a link of their own (link.py): one thread takes what comes for
all streams, decodes and sends it on, so one instance serves any number of streams.

Elsewhere, before NVIDIA's backend and in a repository with a draft model, it calls the engine's model through Triton.
Then an instance serves one request at a time, as TensorRT-LLM's model of the same name does, and `bls_instances` of
them run at once: calls that overlap in one process can stop it for ever (link.py says why). A client that goes away is
noticed between two steps of speculation, and by the watch where one model writes alone.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from slipstream.backend.bls_answer import TextAnswer
from slipstream.backend.bls_call import PASSED_OUTPUTS, EngineCall, EngineFailedError
from slipstream.backend.bls_draft_call import DraftTargetCall, Pair
from slipstream.backend.bls_request import TextRequest, read_text_request
from slipstream.backend.bls_text import OutputText
from slipstream.backend.bls_texts import OutputTexts
from slipstream.backend.kept_responses import KEPT
from slipstream.backend.link_client import LinkClient
from slipstream.backend.linked_stream import LinkedStream
from slipstream.backend.orphan import end_with_server
from slipstream.backend.parameters import ModelConfig
from slipstream.backend.prompt import PromptSettings
from slipstream.backend.tensors import RequestRefusedError
from slipstream.backend.triton import TextReply, input_tensors
from slipstream.backend.watch import Watch
from slipstream.text.tokenizer import Tokenizer

_CANCELLATION_PERIOD_S = 0.02


class Stoppable(Protocol):
    """A generation in progress."""

    def stop_if_abandoned(self) -> None:
        """End it, once, when its client has gone away."""


class BusinessLogic:
    """What Triton calls."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the tokenizer."""
        end_with_server()
        config = ModelConfig.of(args["model_config"])
        self._decoupled = config.decoupled
        self._accumulates = config.loose_flag("accumulate_tokens", default=False)
        self._skips_special_tokens = config.loose_flag("skip_special_tokens", default=True)
        self._engine_model = config.parameters.get("tensorrt_llm_model_name") or "tensorrt_llm"
        self._pair = _pair(config, self._engine_model)
        self._settings = PromptSettings(
            tokenizer=Tokenizer.load(config.text("tokenizer_dir")),
            add_special_tokens=config.loose_flag("add_special_tokens", default=True),
        )
        has_link = config.flag("slipstream_link", default=False)
        self._link = LinkClient(self._engine_model) if has_link and self._pair is None else None
        self._stoppable: dict[int, Stoppable] = {}
        self._stoppable_lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._changed = threading.Event()
        self._watch = Watch(
            self._checks,
            lambda: None,
            self._changed,
            check_period_s=_CANCELLATION_PERIOD_S,
            refresh_period_s=float("inf"),
            step_s=lambda: 0.0 if self._link is None else self._link.step_s,
        )
        self._watch.start()

    def execute(self, requests: list[Any]) -> None:
        """Begin every request; without a link serve one after the other."""
        for request in requests:
            tensors, reply, timeout_us = input_tensors(request), TextReply(request), request.timeout()
            if self._link is not None:
                self._serve(tensors, reply, timeout_us)
                continue
            # A thread, because one that waits in Triton's code cannot be ended with the server; a daemon can.
            thread = threading.Thread(target=self._serve, args=(tensors, reply, timeout_us), daemon=True)
            thread.start()
            thread.join()

    def finalize(self) -> None:
        """End the watch; Triton unloads a model only when its requests are answered, so no stream is left."""
        self._watch.close()
        if self._link is not None:
            self._link.close()

    def _serve(self, tensors: dict[str, Any], reply: TextReply, timeout_us: int) -> None:
        """Answer one request; whatever goes wrong, its client hears of it."""
        try:
            wanted = read_text_request(
                tensors, self._settings, decoupled=self._decoupled, has_draft_model=self._pair is not None
            )
            texts = OutputTexts(partial(self._new_text, wanted), are_wholes=not wanted.streaming or wanted.has_beams)
            answer = TextAnswer(wanted, reply, texts, decoupled=self._decoupled)
            if self._link is not None:
                self._ask(self._link, wanted, answer, reply, timeout_us)
            else:
                self._call_and_answer(wanted, answer, reply, timeout_us)
        except (RequestRefusedError, EngineFailedError) as error:
            reply.refuse(str(error))
        except Exception as error:
            reply.fail(f"{type(error).__name__}: {error}")
            raise

    def _ask(
        self, link: LinkClient, wanted: TextRequest, answer: TextAnswer, reply: TextReply, timeout_us: int
    ) -> None:
        """Begin a request over the link, whose thread answers it."""
        asking = LinkedStream(answer, reply, over=lambda: self._leave(asking))
        self._enter(asking)
        outputs = reply.requested & PASSED_OUTPUTS
        asking.begin(link, wanted.engine_tensors, outputs, parameters=reply.parameters, timeout_us=timeout_us)

    def _call_and_answer(self, wanted: TextRequest, answer: TextAnswer, reply: TextReply, timeout_us: int) -> None:
        call = self._call(wanted, f"bls-{os.getpid()}-{next(self._numbers)}", reply, timeout_us)
        if isinstance(call, EngineCall):
            self._enter(call)
        try:
            for part in call.parts(wanted.engine_tensors, reply.requested, generations=wanted.num_generations):
                answer.push(part)
        finally:
            self._leave(call)
        KEPT.release(reply.is_answered)
        answer.finish()

    def _new_text(self, wanted: TextRequest) -> OutputText:
        return OutputText(
            self._settings.tokenizer,
            skip_special_tokens=self._skips_special_tokens,
            accumulates=self._accumulates and wanted.streaming and not wanted.has_beams,
        )

    def _call(
        self, wanted: TextRequest, request_id: str, reply: TextReply, timeout_us: int
    ) -> EngineCall | DraftTargetCall:
        if self._pair is not None and wanted.drafting is not None:
            return DraftTargetCall(self._pair, wanted.drafting, request_id=request_id, is_abandoned=reply.is_cancelled)
        return EngineCall(
            self._engine_model,
            request_id=request_id,
            is_abandoned=reply.is_cancelled,
            decoupled=self._decoupled if self._pair is None else self._pair.decoupled,
            timeout_us=timeout_us,
            parameters=reply.parameters,
        )

    def _enter(self, stoppable: Stoppable) -> None:
        with self._stoppable_lock:
            self._stoppable[id(stoppable)] = stoppable
        self._changed.set()

    def _leave(self, stoppable: object) -> None:
        with self._stoppable_lock:
            self._stoppable.pop(id(stoppable), None)

    def _checks(self) -> list[Callable[[], None]]:
        with self._stoppable_lock:
            return [stoppable.stop_if_abandoned for stoppable in self._stoppable.values()]


def _pair(config: ModelConfig, target: str) -> Pair | None:
    """The models to speculate with, none where the repository has no draft."""
    draft = config.parameters.get("tensorrt_llm_draft_model_name", "")
    if not draft or draft.startswith("${"):
        return None
    max_seq_len = config.whole("slipstream_max_seq_len", default=0) or None
    return Pair(target=target, draft=draft, decoupled=config.decoupled, max_seq_len=max_seq_len)
