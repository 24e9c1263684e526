"""TensorRT-LLM's `LLM` behind the LLM API model: an event loop of its own, and every generation that is in flight.

`generate_async` binds a generation to the event loop that runs when it is called, so all generations live on one
loop, in one thread; the other threads reach it through `call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from slipstream.backend.llmapi_request import LlmApiRequest
from slipstream.backend.llmapi_response import LlmApiPiece
from slipstream.backend.llmapi_text import GrowingText
from slipstream.backend.tensors import RequestRefusedError

_ABORT_GRACE_S = 5.0  # for the engine to end a generation that was aborted
_CANCELLED = "cancelled"  # the engine's own word


class Reply(Protocol):
    """The way back to one client; every request ends with one last piece, one error, or silence after it has left."""

    def send(self, request: LlmApiRequest, piece: LlmApiPiece, completion: Any | None) -> None:
        """Send one response."""

    def refuse(self, message: str) -> None:
        """End the request: it cannot be served as it is."""

    def fail(self, message: str) -> None:
        """End the request: the server could not serve it."""

    def is_cancelled(self) -> bool:
        """The client has gone away."""


class Generation:
    """One request in flight; all but `reply` belongs to the event loop's thread."""

    def __init__(self, request: LlmApiRequest, reply: Reply) -> None:
        self.request = request
        self.reply = reply
        self.text = GrowingText(request.stops)
        self.sent = ""  # all text so far, where the stream accumulates
        self.is_aborted = False
        self.result: Any = None  # the engine's handle: iterator, outputs and abort() in one
        self.task: asyncio.Task[None] | None = None

    @property
    def completion(self) -> Any | None:
        """The engine's first output; none before it gave one."""
        outputs = getattr(self.result, "outputs", None)
        return outputs[0] if outputs else None


class LlmApiEngine:
    """Opens `LLM` and keeps it until `close`; `SamplingParams` is made here, so that its refusals reach the client."""

    def __init__(
        self,
        llm: Any,
        make_sampling: Callable[..., Any],
        *,
        clients_faults: tuple[type[Exception], ...],
        max_requests: int | None,
        changed: threading.Event,
    ) -> None:
        self._llm = llm
        self._make_sampling = make_sampling
        self._clients_faults = clients_faults
        self._max_requests = max_requests
        self._changed = changed  # set when a request began or ended
        self._in_flight: set[Generation] = set()
        self._lock = threading.Lock()
        self._is_closing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llmapi", daemon=True)
        self._thread.start()

    def submit(self, request: LlmApiRequest, reply: Reply) -> None:
        """Begin `request`; RequestRefusedError when too many are in flight already."""
        generation = Generation(request, reply)
        with self._lock:
            if self._is_closing:
                raise RequestRefusedError("the model is being unloaded: send the request again")
            if self._max_requests is not None and len(self._in_flight) >= self._max_requests:
                raise RequestRefusedError(
                    f"{len(self._in_flight)} requests are in flight, the limit is {self._max_requests}: try again later"
                )
            self._in_flight.add(generation)
        self._loop.call_soon_threadsafe(self._begin, generation)
        self._changed.set()

    def cancel_request(self, request_id: str) -> None:
        """End every generation with Triton's `request_id`, which then answers with what it has; there may be none."""
        for generation in self._generations():
            if generation.request.request_id == request_id:
                self._loop.call_soon_threadsafe(self._abort, generation)

    def checks(self) -> list[Callable[[], None]]:
        """One call each generation in flight, which ends it if its client has gone away."""
        return [partial(self._abort_if_abandoned, generation) for generation in self._generations()]

    def close(self) -> None:
        """End what is in flight, the loop and the engine; once is enough."""
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
        asyncio.run_coroutine_threadsafe(self._abort_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._llm.shutdown()

    def _generations(self) -> list[Generation]:
        with self._lock:
            return list(self._in_flight)

    def _begin(self, generation: Generation) -> None:
        generation.task = self._loop.create_task(self._run(generation))

    async def _run(self, generation: Generation) -> None:
        """Serve one generation to its end; whatever goes wrong, its client hears of it."""
        try:
            await self._generate(generation)
        except asyncio.CancelledError:
            self._finish(generation, finish_reason=_CANCELLED)
        except Exception as error:
            self._end_by(error, generation)
            if not generation.is_aborted and not isinstance(error, self._clients_faults):
                raise  # the loop writes it, with where it came from, into the server's log
        finally:
            with self._lock:
                self._in_flight.discard(generation)
            self._changed.set()

    async def _generate(self, generation: Generation) -> None:
        request = generation.request
        if generation.is_aborted:
            self._finish(generation, finish_reason=_CANCELLED)
            return
        sampling = self._make_sampling(**request.sampling)
        generation.result = self._llm.generate_async(request.prompt, sampling, streaming=request.streaming)
        async for output in generation.result:
            # The same object each time: steps that came meanwhile are in it, and travel together.
            if request.streaming and not output.finished and self._step(generation):
                return
        completion = generation.completion
        self._finish(
            generation,
            finish_reason=(completion and completion.finish_reason) or "",
            stop_reason=None if completion is None else completion.stop_reason,
        )

    def _step(self, generation: Generation) -> bool:
        """Send what is new; true if a stop string ended the output, which the engine need not go on with."""
        completion = generation.completion
        if completion is None:
            return False
        piece = generation.text.push(completion.text, is_last=False)
        if generation.text.stop is not None:
            generation.result.abort()
            self._send_last(generation, piece, finish_reason="stop", stop_reason=generation.text.stop)
            return True
        if piece:
            generation.reply.send(
                generation.request, LlmApiPiece(text=self._shown(generation, piece), is_last=False), completion
            )
        return False

    def _finish(self, generation: Generation, *, finish_reason: str, stop_reason: int | str | None = None) -> None:
        completion = generation.completion
        piece = "" if completion is None else generation.text.push(completion.text, is_last=True)
        if generation.text.stop is not None:
            finish_reason, stop_reason = "stop", generation.text.stop
        self._send_last(generation, piece, finish_reason=finish_reason, stop_reason=stop_reason)

    def _send_last(
        self, generation: Generation, piece: str, *, finish_reason: str, stop_reason: int | str | None
    ) -> None:
        request = generation.request
        text = request.prompt + piece if request.echo_prompt else self._shown(generation, piece)
        last = LlmApiPiece(
            text=text,
            is_last=True,
            finish_reason=finish_reason,
            stop_reason="" if stop_reason is None else str(stop_reason),
        )
        generation.reply.send(request, last, generation.completion)

    def _shown(self, generation: Generation, piece: str) -> str:
        if not generation.request.accumulates:
            return piece
        generation.sent += piece
        return generation.sent

    def _end_by(self, error: Exception, generation: Generation) -> None:
        if generation.is_aborted:
            self._finish(generation, finish_reason=_CANCELLED)
        elif isinstance(error, self._clients_faults):
            generation.reply.refuse(_sentence(error))
        else:
            generation.reply.fail(f"the engine failed: {_sentence(error)}")

    def _abort_if_abandoned(self, generation: Generation) -> None:
        if not generation.is_aborted and generation.reply.is_cancelled():
            self._loop.call_soon_threadsafe(self._abort, generation)

    def _abort(self, generation: Generation) -> None:
        """Tell the engine; should it not end the generation, the grace does."""
        if generation.is_aborted:
            return
        generation.is_aborted = True
        if generation.result is not None:
            generation.result.abort()
        if generation.task is not None:
            self._loop.call_later(_ABORT_GRACE_S, generation.task.cancel)

    async def _abort_all(self) -> None:
        tasks = []
        for generation in self._generations():
            self._abort(generation)
            if generation.task is not None:
                tasks.append(generation.task)
        await asyncio.gather(*tasks, return_exceptions=True)


def _sentence(error: Exception) -> str:
    """The first line of an error's text; validation errors of the engine go on for pages."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
