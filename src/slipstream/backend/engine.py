"""The engine as the `tensorrt_llm` model sees it: requests in, responses out, whatever happens to the step loop."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from slipstream.backend.admission import Capacity, count_waiting, size_of
from slipstream.backend.latency import Tally
from slipstream.backend.messages import Cancel, Ending, FromLoop, Step, Tokens, ToLoop
from slipstream.backend.parameters import Limits
from slipstream.backend.requests import GenerationRequest
from slipstream.backend.silence import Silence
from slipstream.backend.stream import Piece, Stream, Vocabulary
from slipstream.backend.stream_interval import StreamInterval
from slipstream.backend.tensors import RequestRefusedError
from slipstream.backend.vllm_families import GAP_S
from slipstream.errors import SlipstreamError

_REOPEN_PAUSE_S = 2.0
_STEP_WEIGHT = 0.2
_LONGEST_STEP_S = 0.5  # what is longer is a pause


class Reply(Protocol):
    """The way back to one client; every request ends with one last piece or one failure."""

    @property
    def asks_server(self) -> bool:
        """`is_cancelled` takes a round trip to the server."""

    def send(self, stream: Stream, piece: Piece) -> None:
        """Send one response."""

    def fail(self, stream: Stream, message: str) -> None:
        """End the request with an error."""

    def is_cancelled(self) -> bool:
        """The client has gone away."""

    def beat(self, stream: Stream, step_s: float) -> None:
        """Let Triton say in another way that the client has gone away; `step_s` is the time between two tokens."""


class Loop(Protocol):
    """The step loop's process."""

    def send(self, message: ToLoop) -> None:
        """Pass a message on."""

    def receive(self) -> FromLoop | None:
        """Wait for a message; none when the loop has died."""

    def has_more(self) -> bool:
        """A message waits."""

    def memory_bytes(self) -> int:
        """Resident memory of its process."""

    def kill(self) -> None:
        """End a loop that does not react; `receive` gives none from then on."""

    def close(self) -> None:
        """End the loop; `receive` gives none from then on."""

    def forget(self) -> None:
        """Release the channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Of one request that was answered."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class _Delivery:
    stream: Stream
    reply: Reply


class Engine:
    """Knows every generation in flight; one thread delivers what the step loop brings.

    Tokens of one stream that are ready together travel together: the thread takes all messages that wait before it
    sends, so it gives one response every `stream_interval` tokens while it keeps up, and larger ones when it does not.
    """

    def __init__(
        self,
        open_loop: Callable[[], Loop],
        *,
        limits: Limits,
        vocabulary: Vocabulary | None,
        stream_interval: StreamInterval,
        changed: threading.Event,
        step_timeout_s: float = 30.0,
    ) -> None:
        self._open_loop = open_loop
        self._stream_interval = stream_interval
        self._limits = limits
        self._capacity = Capacity(
            max_requests=limits.max_batch_size, kv_blocks=limits.kv_blocks, reserves_output=limits.reserves_output
        )
        self._silence = Silence(step_timeout_s)
        self._vocabulary = vocabulary
        self._changed = changed  # set after a request began or ended, and when the KV cache has become free
        self._handles = itertools.count(1)
        self._in_flight: dict[int, _Delivery] = {}
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self.after_round: Callable[[], None] = lambda: None  # called when the responses of a step have been sent
        self.kv_cache_usage = 0.0  # share of the KV cache in use, 0..1
        self.iterations = 0  # steps that brought tokens or filled the KV cache
        self.last_iteration_us = 0  # when the last of them was reported, since the epoch
        self.paused_requests = 0  # in the last of them
        self.step_s = 0.0  # between two of them, lately
        self._last_step_s = 0.0
        self.speculating_requests = 0  # in the last of them
        self.draft_tokens = 0  # proposed by speculation since the model was loaded
        self.accepted_draft_tokens = 0  # and those of them that were right
        self.tally = Tally(GAP_S)
        self._finished: deque[Lengths] = deque()
        self._loop = open_loop()
        self._thread = threading.Thread(target=self._deliver, name="deliver", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, reply: Reply) -> int:
        """Begin `request`; its handle. `RequestRefusedError` when too many wait already."""
        return self.submit_all((request,), reply)[0]

    def submit_all(self, requests: Sequence[GenerationRequest], reply: Reply) -> list[int]:
        """Begin the generations of one request, or none of them: `RequestRefusedError` as above."""
        streams = [
            Stream(
                handle=next(self._handles),
                request=request,
                vocabulary=self._vocabulary,
                interval=self._stream_interval.longest,
            )
            for request in requests
        ]
        with self._lock:
            self._admit(requests)
            if not self._in_flight:
                self._silence.break_off()  # an idle loop has nothing to say
            for stream in streams:
                self._in_flight[stream.handle] = _Delivery(stream, reply)
                self._loop.send(stream.generate_message)
        self._changed.set()
        return [stream.handle for stream in streams]

    def cancel(self, handle: int) -> None:
        """End a generation; its last response still comes. An unknown handle has ended already."""
        with self._lock:
            if handle in self._in_flight:
                self._loop.send(Cancel(handle))

    def cancel_with_siblings(self, handle: int) -> None:
        """End all generations of the request that generation `handle` belongs to."""
        with self._lock:
            found = self._in_flight.get(handle)
            for other, delivery in self._in_flight.items():
                if found is not None and delivery.reply is found.reply:
                    self._loop.send(Cancel(other))

    def cancel_request(self, request_id: str) -> None:
        """End every generation with Triton's `request_id`; there may be none."""
        for stream in self.streams():
            if stream.request.request_id == request_id:
                self.cancel(stream.handle)

    def checks(self) -> list[Callable[[], None]]:
        """What ends generations whose client has gone away: a call for each that must ask the server, and one before.

        That one is cheap. It looks after all the others, ends those whose time is up, and a step loop which has hung.
        """
        deliveries = self._deliveries()
        questions = [partial(self._end_if_cancelled, delivery) for delivery in deliveries if _asks_server(delivery)]
        return [self.look_after_all, *questions] if deliveries else []

    def look_after_all(self) -> None:
        """Do all that needs no question to the server."""
        self._kill_if_mute()
        for delivery in self._deliveries():
            if delivery.stream.expire():
                self.cancel(delivery.stream.handle)
            if delivery.stream.request.wishes.trailer:
                delivery.reply.beat(delivery.stream, self.step_s)
            elif not delivery.reply.asks_server:
                self._end_if_cancelled(delivery)

    def streams(self) -> list[Stream]:
        """The generations in flight, oldest first."""
        return [delivery.stream for delivery in self._deliveries()]

    def take_finished(self) -> list[Lengths]:
        """The requests that were answered since the last call."""
        return [self._finished.popleft() for _ in range(len(self._finished))]

    def memory_bytes(self) -> int:
        """Resident memory of the step loop: weights, KV cache and activations."""
        return self._loop.memory_bytes()

    def close(self) -> None:
        """End the step loop and the thread, and fail what is in flight."""
        self.abandon()
        self._thread.join()
        self._fail_all("the model is being unloaded")
        self._loop.forget()

    def abandon(self) -> None:
        """End the step loop and wait for nothing: the server, which would take the last responses, is gone."""
        self._is_closing.set()
        with self._lock:
            self._loop.close()

    def _deliveries(self) -> list[_Delivery]:
        with self._lock:
            return list(self._in_flight.values())

    def _kill_if_mute(self) -> None:
        if self._silence.is_too_long:
            self._silence.note_kill()
            self._loop.kill()

    def _end_if_cancelled(self, delivery: _Delivery) -> None:
        if delivery.stream.ending is None and delivery.reply.is_cancelled():
            self.cancel(delivery.stream.handle)

    def _admit(self, requests: Sequence[GenerationRequest]) -> None:
        for request in requests:
            if refusal := self._capacity.refusal(size_of(request)):
                raise RequestRefusedError(refusal)
        limit = self._limits.max_queue_size
        if not limit:
            return
        running = [delivery.stream.request for delivery in self._in_flight.values()]
        if count_waiting([*running, *requests], self._capacity) <= limit:
            return
        if count_waiting(requests, self._capacity) > limit:
            raise RequestRefusedError(
                f"the request asks for {len(requests)} sequences, more than run at once and max_queue_size, which is"
                f" {limit}, together: ask for fewer"
            )
        waiting = count_waiting(running, self._capacity)
        raise RequestRefusedError(
            f"{waiting} requests wait for the engine, the limit max_queue_size is {limit}: try later"
        )

    def _deliver(self) -> None:
        while (message := self._loop.receive()) is not None or self._reopen():
            touched: dict[int, _Delivery] = {}
            self._silence.break_off()
            if message is not None:
                self._take(message, touched)
                while self._loop.has_more() and (message := self._loop.receive()) is not None:
                    self._take(message, touched)
            interval = self._stream_interval.tokens(len(touched))
            for delivery in touched.values():
                delivery.stream.interval = interval
                self._send(delivery)
            self.after_round()

    def _take(self, message: FromLoop, touched: dict[int, _Delivery]) -> None:
        if not isinstance(message, Step):
            return
        for begun in message.begun:
            if begun.handle in self._in_flight:
                self._in_flight[begun.handle].stream.timings.first_scheduled_ns = begun.at_ns
        self._note_usage(message.kv_cache_usage)
        self._note_iteration(message)
        for tokens in message.tokens:
            self.draft_tokens += tokens.drafted
            self.accepted_draft_tokens += tokens.accepted
            delivery = self._in_flight.get(tokens.handle)
            if delivery is None or delivery.stream.ending is not None:
                continue  # a stop word ended it before the loop knew
            touched[tokens.handle] = delivery
            self._push(delivery.stream, tokens, message.ended_ns)

    def _push(self, stream: Stream, tokens: Tokens, at_ns: int) -> None:
        tokens_before, before_ns = stream.tokens_generated, stream.timings.last_token_ns
        if stream.push(tokens, at_ns):
            self.cancel(stream.handle)
        if tokens.start is not None:
            self.tally.begin(stream)
        self.tally.note(stream, tokens=stream.tokens_generated - tokens_before, before_ns=before_ns)

    def _note_iteration(self, step: Step) -> None:
        if step.paused_requests is not None:
            self.iterations += 1
            now_s = time.monotonic()
            self.step_s += _STEP_WEIGHT * (min(now_s - self._last_step_s, _LONGEST_STEP_S) - self.step_s)
            self._last_step_s = now_s
            self.last_iteration_us = time.time_ns() // 1000
            self.paused_requests = step.paused_requests
            self.tally.preemptions += step.newly_paused
            self.speculating_requests = step.speculating

    def _note_usage(self, usage: float) -> None:
        has_become_free = usage == 0.0 < self.kv_cache_usage
        self.kv_cache_usage = usage
        if has_become_free:  # after a stop word this comes when the request has ended here already
            self._changed.set()

    def _send(self, delivery: _Delivery) -> None:
        stream = delivery.stream
        if stream.ending is None:
            piece = stream.take()
            if piece is not None:
                delivery.reply.send(stream, piece)
            return
        with self._lock:
            self._in_flight.pop(stream.handle, None)
        if stream.ending is Ending.FAILED:
            self.tally.failures += 1
            delivery.reply.fail(stream, stream.failure)
        elif (piece := stream.take()) is not None:
            delivery.reply.send(stream, piece)
            self.tally.end(stream)
            self._finished.append(
                Lengths(input_tokens=len(stream.request.prompt_ids), output_tokens=stream.tokens_generated)
            )
        self._changed.set()

    def _reopen(self) -> bool:
        """After the loop's death: fail what was in flight, open a new one; false when the model is being unloaded."""
        if self._is_closing.is_set():
            return False
        self.kv_cache_usage = 0.0
        self.paused_requests = 0
        self._fail_all(
            f"the engine's process {self._silence.take_fault()} and is being restarted: send the request again"
        )
        self._loop.close()
        self._loop.forget()
        while not self._is_closing.is_set():
            try:
                loop = self._open_loop()
            except SlipstreamError as error:
                self._fail_all(error.message)
                self._is_closing.wait(_REOPEN_PAUSE_S)
                continue
            return self._use(loop)
        return False

    def _use(self, loop: Loop) -> bool:
        with self._lock:
            self._loop = loop
            self._silence.break_off()
            if self._is_closing.is_set():  # `close` has ended the loop before this one
                loop.close()
                return False
            # Requests that came since were told to the dead one.
            for delivery in self._in_flight.values():
                loop.send(delivery.stream.generate_message)
        return True

    def _fail_all(self, message: str) -> None:
        with self._lock:
            deliveries = list(self._in_flight.values())
            self._in_flight.clear()
        self.tally.failures += len(deliveries)
        for delivery in deliveries:
            delivery.reply.fail(delivery.stream, message)
        self._changed.set()


def _asks_server(delivery: _Delivery) -> bool:
    # Triton tells a step of the ensemble nothing once it runs: asking costs and finds out nothing.
    return delivery.reply.asks_server and not delivery.stream.request.wishes.trailer
