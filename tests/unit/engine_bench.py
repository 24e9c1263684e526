"""An engine over a step loop and clients that a test plays."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from slipstream.backend.engine import Engine
from slipstream.backend.messages import Begun, FromLoop, Step, Tokens, ToLoop
from slipstream.backend.parameters import Limits
from slipstream.backend.requests import GenerationRequest, OutputWishes, Penalties, StopRules
from slipstream.backend.stream import Piece, Stream
from slipstream.backend.stream_interval import StreamInterval


def a_request(**wishes: bool) -> GenerationRequest:
    stop = StopRules(max_new_tokens=50, min_new_tokens=0, end_id=None, stop_words=(), bad_words=())
    defaults = OutputWishes(
        streaming=True,
        echo_prompt=False,
        log_probs=False,
        num_input_tokens=False,
        num_output_tokens=False,
        perf_metrics=False,
        trailer=False,
        is_bls_call=False,
    )
    return GenerationRequest(
        request_id="",
        prompt_ids=[1, 2],
        sampling=None,
        penalties=Penalties(),
        stop=stop,
        wishes=replace(defaults, **wishes),
    )


def with_stop_words(words: tuple[tuple[int, ...], ...]) -> GenerationRequest:
    request = a_request()
    return replace(request, stop=replace(request.stop, stop_words=words))


class FakeLoop:
    """Speaks the step loop's messages; a test plays the engine through `say` and `die`."""

    def __init__(self) -> None:
        self.heard: queue.Queue[ToLoop] = queue.Queue()
        self._said: queue.Queue[FromLoop | None] = queue.Queue()
        self.count_said = 0
        self.count_received = 0  # with the one that is being waited for

    def send(self, message: ToLoop) -> None:
        self.heard.put(message)

    def receive(self) -> FromLoop | None:
        self.count_received += 1
        message = self._said.get()
        if message is None:
            self._said.put(None)  # like a closed channel, a dead loop stays dead
        return message

    def has_more(self) -> bool:
        return not self._said.empty()

    def memory_bytes(self) -> int:
        return 4096

    def kill(self) -> None:
        self._said.put(None)

    def close(self) -> None:
        self._said.put(None)

    def forget(self) -> None:
        pass

    def say(
        self,
        *tokens: Tokens,
        kv_cache_usage: float = 0.5,
        paused_requests: int | None = 0,
        newly_paused: int = 0,
        begun: tuple[int, ...] = (),
    ) -> None:
        noted = tuple(Begun(handle, 1) for handle in begun)
        self.count_said += 1
        self._said.put(Step(list(tokens), kv_cache_usage, paused_requests, newly_paused, begun=noted))

    def die(self) -> None:
        self._said.put(None)


EACH_TOKEN = StreamInterval(longest=1)


class FakeReply:
    def __init__(self, *, asks_server: bool = True) -> None:
        self.asks_server = asks_server
        self.pieces: queue.Queue[Piece] = queue.Queue()
        self.failures: queue.Queue[str] = queue.Queue()
        self.cancelled = False
        self.beats: list[int] = []

    def send(self, stream: Stream, piece: Piece) -> None:
        self.pieces.put(piece)

    def fail(self, stream: Stream, message: str) -> None:
        self.failures.put(message)

    def is_cancelled(self) -> bool:
        return self.cancelled

    def beat(self, stream: Stream, step_s: float) -> None:
        self.beats.append(stream.handle)


class Bench:
    """An engine over fake loops; `loops[-1]` is the one in use."""

    def __init__(
        self,
        *,
        max_queue_size: int = 0,
        max_batch_size: int = 1,
        stream_interval: StreamInterval = EACH_TOKEN,
        kv_blocks: int = 1000,
        step_timeout_s: float = 30,
    ) -> None:
        self.loops: list[FakeLoop] = []
        self.limits = Limits(
            max_input_len=9,
            max_seq_len=10,
            max_batch_size=max_batch_size,
            max_queue_size=max_queue_size,
            vocab_size=99,
            kv_blocks=kv_blocks,
        )
        self.changed = threading.Event()
        self.engine = Engine(
            self._open,
            limits=self.limits,
            vocabulary=None,
            stream_interval=stream_interval,
            changed=self.changed,
            step_timeout_s=step_timeout_s,
        )

    def step(self, tokens: Sequence[Tokens]) -> None:
        """One step of the engine; returns when what it brought has been delivered."""
        loop = self.loops[-1]
        loop.say(*tokens)
        deadline = time.monotonic() + 5
        while loop.count_received <= loop.count_said:
            assert time.monotonic() < deadline, "the step was not delivered"
            time.sleep(0.001)

    def _open(self) -> FakeLoop:
        self.loops.append(FakeLoop())
        return self.loops[-1]

    def heard(self) -> ToLoop:
        return self.loops[-1].heard.get(timeout=5)
