"""The step loop: the one place that drives the pipeline.

It runs in a process of its own (`python -m slipstream.backend.step_loop`), because the pipeline's step holds Python's
global lock from begin to end and would keep the model from sending what the step before brought.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeAlias

from slipstream.backend.admission import Capacity, Room, WaitingLine
from slipstream.backend.messages import Begun, Broken, Ending, FromLoop, Generate, Ready, Step, Tokens, ToLoop
from slipstream.backend.orphan import end_stub_with_server
from slipstream.backend.pipeline import Generation, Pipeline

HEARTBEAT_S = 1.0  # a loop at work is not silent for longer than this and a step

Channel: TypeAlias = "Connection[FromLoop, ToLoop]"


class StepLoop:
    """Takes requests from `channel`, steps while there are any, and sends what each step brings.

    At most what fits into `capacity` runs, and the others wait: OpenVINO ignores its own limit of sequences when it
    splits prompts, and fails requests that find no room. An exception in a step fails the requests that run and opens
    the pipeline anew; those that wait stay. Idle, the loop blocks.
    """

    def __init__(self, open_pipeline: Callable[[], Pipeline], channel: Channel, *, capacity: Capacity) -> None:
        self._open_pipeline = open_pipeline
        self._channel = channel
        self._room = Room(capacity)
        self._waiting = WaitingLine()
        self._newly_begun: list[Begun] = []  # nobody was told yet
        self._running: dict[int, Generation] = {}
        self._begun: set[int] = set()  # those of the running that have tokens
        self._paused: set[int] = set()  # those of the begun that got no token in the last step
        self._last_usage = 0.0
        self._next_word_s = 0.0  # a step that brings nothing is told as well by then

    def run(self) -> None:
        """Serve until the other end of the channel is closed."""
        try:
            self._pipeline = self._open_pipeline()
            self._channel.send(Ready(self._pipeline.kv_cache_bytes()))
            while True:
                self._take_messages()
                self._begin_waiting()
                if self._running:
                    self._step()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return

    def _take_messages(self) -> None:
        """Take all that has come; wait for more only when there is nothing to do."""
        while not (self._running or self._waiting) or self._channel.poll():
            message = self._channel.recv()
            if isinstance(message, Generate):
                self._waiting.push(message)
            else:
                self._cancel(message.handle)

    def _begin_waiting(self) -> None:
        while (request := self._waiting.next_fitting(self._room)) is not None:
            self._begin(request)

    def _begin(self, request: Generate) -> None:
        try:
            self._running[request.handle] = self._pipeline.add(request)
            self._newly_begun.append(Begun(request.handle, time.monotonic_ns()))
        except RuntimeError as error:  # the pipeline's only exception type
            self._room.give_back(request.handle)
            self._end(request.handle, Ending.FAILED, f"the engine refused the request: {_first_line(error)}")

    def _cancel(self, handle: int) -> None:
        generation = self._running.pop(handle, None)
        if generation is not None:
            self._begun.discard(handle)
            generation.cancel()
            self._room.leave(handle)
            if not self._running:
                self._step_quietly()  # the pipeline frees a cancelled request's blocks in its next step
        elif not self._waiting.remove(handle):
            return  # it ended while the message was on its way
        self._end(handle, Ending.CANCELLED)

    def _step(self) -> None:
        try:
            self._pipeline.step()
            tokens = [tokens for generation in self._running.values() if (tokens := generation.read()) is not None]
        except RuntimeError as error:
            self._start_over(error)
            return
        self._room.end_step()
        # A step gives every generation that has begun a token, unless it had to give its KV blocks up.
        before, self._paused = self._paused, self._begun - {item.handle for item in tokens}
        for item in tokens:
            self._begun.add(item.handle)
            self._room.grow(item.handle, len(item.ids))
            if item.ending is not None:
                del self._running[item.handle]
                self._begun.remove(item.handle)
                self._release(item)
        self._report(tokens, newly_paused=len(self._paused - before))
        if self._room.is_being_left and not self._running:
            self._step_quietly()

    def _release(self, last: Tokens) -> None:
        if last.ending is Ending.FAILED:
            self._room.leave(last.handle)  # given up by its reader, which the pipeline notices in the next step
        else:
            self._room.give_back(last.handle)

    def _report(self, tokens: list[Tokens], *, newly_paused: int) -> None:
        """Tell of a step, unless nothing came of it: part of a long prompt brings no token but fills the cache.

        A sign of life is given all the same, now and then.
        """
        usage = self._usage()
        now_s = time.monotonic()
        if tokens or self._newly_begun or usage != self._last_usage or now_s >= self._next_word_s:
            self._next_word_s = now_s + HEARTBEAT_S
            begun = tuple(self._newly_begun)
            self._channel.send(
                Step(tokens, usage, len(self._paused), newly_paused, self._pipeline.speculating(), begun)
            )
            self._newly_begun.clear()
        self._last_usage = usage

    def _step_quietly(self) -> None:
        try:
            self._pipeline.step()
            self._room.end_step()
        except RuntimeError as error:
            self._start_over(error)

    def _start_over(self, error: RuntimeError) -> None:
        """Nothing is known about a pipeline that threw: answer its requests and open a new one for those that wait."""
        traceback.print_exc(file=sys.stderr)
        failure = f"the engine failed in a step and was restarted: {_first_line(error)}"
        failed = [Tokens(handle, [], None, Ending.FAILED, failure) for handle in self._running]
        self._running.clear()
        self._begun.clear()
        self._newly_begun.clear()
        self._room.clear()
        self._channel.send(Step(failed, 0.0))
        del self._pipeline
        self._pipeline = self._open_pipeline()

    def _end(self, handle: int, ending: Ending, failure: str = "") -> None:
        self._channel.send(Step([Tokens(handle, [], None, ending, failure)], self._usage()))

    def _usage(self) -> float:
        # The pipeline keeps reporting its last step after it has drained: what it then holds is the prefix cache, which
        # gives way to the next request.
        return self._pipeline.kv_cache_usage() if self._running else 0.0


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def main() -> None:
    """Serve the channel on the file descriptor in `argv[1]`; the first message holds the settings."""
    from slipstream.backend.pipeline import kv_blocks
    from slipstream.backend.speculating_pipeline import open_pipeline
    from slipstream.errors import SlipstreamError

    end_stub_with_server()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the model ends this process
    channel = Connection(int(sys.argv[1]))
    settings = channel.recv()
    try:
        capacity = Capacity(
            max_requests=settings.max_batch_size,
            kv_blocks=kv_blocks(settings),
            reserves_output=settings.reserves_output,
        )
        StepLoop(lambda: open_pipeline(settings), channel, capacity=capacity).run()
    except (RuntimeError, SlipstreamError, KeyError) as error:
        traceback.print_exc(file=sys.stderr)
        channel.send(Broken(str(error)))
        sys.exit(1)


if __name__ == "__main__":
    main()
