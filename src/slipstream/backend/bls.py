"""The `tensorrt_llm_bls` model: text in, text out, with tokenizing, detokenizing and speculation in process.

One thread serves one stream: it calls the engine's model, detokenizes what comes and sends it on. It spends its time
waiting, so one instance serves many streams. The threads are daemons: were the server to die, a thread that waits for
it would keep this process alive for ever.

In a repository with a draft model an instance serves one request at a time, `bls_instances` of them at once. A client
that goes away is noticed between two steps of speculation, and by the watch where the target writes alone.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from slipstream.backend.bls_call import EngineCall, EngineFailedError
from slipstream.backend.bls_draft_call import DraftTargetCall, Pair
from slipstream.backend.bls_request import TextRequest, read_text_request
from slipstream.backend.bls_text import OutputText
from slipstream.backend.bls_texts import OutputTexts
from slipstream.backend.kept_responses import KEPT
from slipstream.backend.orphan import end_with_server
from slipstream.backend.parameters import ModelConfig
from slipstream.backend.prompt import PromptSettings
from slipstream.backend.responses import place_tensors
from slipstream.backend.tensors import RequestRefusedError
from slipstream.backend.triton import TextReply, input_tensors
from slipstream.backend.watch import Watch
from slipstream.text.tokenizer import Tokenizer

_CANCELLATION_PERIOD_S = 0.02


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
        self._calls: dict[str, EngineCall] = {}
        self._calls_lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._changed = threading.Event()
        self._watch = Watch(
            self._checks,
            lambda: None,
            self._changed,
            check_period_s=_CANCELLATION_PERIOD_S,
            refresh_period_s=float("inf"),
        )
        self._watch.start()

    def execute(self, requests: list[Any]) -> None:
        """Begin every request on a thread of its own, or serve one after the other where there is a draft."""
        for request in requests:
            arguments = (input_tensors(request), TextReply(request), request.timeout())
            thread = threading.Thread(target=self._serve, args=arguments, name="stream", daemon=True)
            thread.start()
            if self._pair is not None:
                thread.join()

    def finalize(self) -> None:
        """End the watch; Triton unloads a model only when its requests are answered, so no stream is left."""
        self._watch.close()

    def _serve(self, tensors: dict[str, Any], reply: TextReply, timeout_us: int) -> None:
        """Answer one request; whatever goes wrong, its client hears of it."""
        try:
            wanted = read_text_request(
                tensors, self._settings, decoupled=self._decoupled, has_draft_model=self._pair is not None
            )
            self._generate(wanted, reply, timeout_us)
        except (RequestRefusedError, EngineFailedError) as error:
            reply.refuse(str(error))
        except Exception as error:
            reply.fail(f"{type(error).__name__}: {error}")
            raise

    def _generate(self, wanted: TextRequest, reply: TextReply, timeout_us: int) -> None:
        request_id = f"bls-{os.getpid()}-{next(self._numbers)}"
        call = self._call(wanted, request_id, reply, timeout_us)
        texts = OutputTexts(partial(self._new_text, wanted), are_wholes=not wanted.streaming or wanted.has_beams)
        generations_left = wanted.num_generations
        last, others = None, dict[str, Any]()
        self._enter(request_id, call)
        try:
            for part in call.parts(wanted.engine_tensors, reply.requested, generations=wanted.num_generations):
                pieces = texts.push(part)
                generations_left -= 1
                if not wanted.streaming and generations_left == 0:
                    last, others = pieces, part.others
                elif any(pieces) or part.others or not wanted.streaming:
                    reply.send(pieces, part.others)
        finally:
            self._leave(request_id)
        KEPT.release(reply.is_answered)
        for place, rest in texts.rests():
            reply.send([rest], {name: array for name, array in place_tensors(place).items() if name in reply.requested})
        if last is None and self._decoupled:
            reply.close()
        else:
            # After a stop there is no part; a model that is not decoupled owes a response even then.
            reply.send_last(last or [""], others)

    def _new_text(self, wanted: TextRequest) -> OutputText:
        return OutputText(
            self._settings.tokenizer,
            skip_special_tokens=self._skips_special_tokens,
            accumulates=self._accumulates and wanted.streaming and not wanted.has_beams,
        )

    def _call(
        self, wanted: TextRequest, request_id: str, reply: TextReply, timeout_us: int
    ) -> EngineCall | DraftTargetCall:
        if self._pair is None:
            return EngineCall(
                self._engine_model,
                request_id=request_id,
                is_abandoned=reply.is_cancelled,
                timeout_us=timeout_us,
                parameters=reply.parameters,
            )
        if wanted.drafting is not None:
            return DraftTargetCall(self._pair, wanted.drafting, request_id=request_id, is_abandoned=reply.is_cancelled)
        return EngineCall(
            self._engine_model,
            request_id=request_id,
            is_abandoned=reply.is_cancelled,
            decoupled=self._pair.decoupled,
            timeout_us=timeout_us,
            parameters=reply.parameters,
        )

    def _enter(self, request_id: str, call: EngineCall | DraftTargetCall) -> None:
        if isinstance(call, EngineCall):
            with self._calls_lock:
                self._calls[request_id] = call
            self._changed.set()

    def _leave(self, request_id: str) -> None:
        with self._calls_lock:
            self._calls.pop(request_id, None)

    def _checks(self) -> list[Callable[[], None]]:
        with self._calls_lock:
            return [call.stop_if_abandoned for call in self._calls.values()]


def _pair(config: ModelConfig, target: str) -> Pair | None:
    """The models to speculate with, none where the repository has no draft."""
    draft = config.parameters.get("tensorrt_llm_draft_model_name", "")
    if not draft or draft.startswith("${"):
        return None
    max_seq_len = config.whole("slipstream_max_seq_len", default=0) or None
    return Pair(target=target, draft=draft, decoupled=config.decoupled, max_seq_len=max_seq_len)
