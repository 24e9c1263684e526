"""Mixed traffic for a soak: every answer is compared with a known one, and nothing may fail without a fault."""

from __future__ import annotations

import http.client
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from slipstream.client import TritonClient
from slipstream.errors import SlipstreamError
from slipstream.perf.soak_cases import BAD, CASES, TIMEOUT_S, Case, answer, events
from slipstream.text.tokenizer import Tokenizer

MODELS = ("ensemble", "tensorrt_llm_bls")
_MOST_PROBLEMS = 40
# A client whose process is killed as soon as it has text.
_CLIENT = """
import sys
from slipstream.client import TritonClient
with TritonClient(sys.argv[1]) as client:
    for chunk in client.stream("Once upon a time", max_tokens=1500, model=sys.argv[2]):
        print(chunk.text, flush=True)
"""
_WEIGHTS = {"answer": 40, "events": 15, "tokens": 15, "cancelled": 10, "disconnected": 10, "refused": 10, "killed": 0.4}


class WrongAnswerError(Exception):
    """A text that is not the known one, or a refusal that did not come."""


@dataclass(slots=True)
class Faults:
    """The spans of time in which a request may fail: from a kill until the server serves again."""

    spans: list[list[float]] = field(default_factory=list)

    def begin(self) -> None:
        self.spans.append([time.monotonic(), float("inf")])

    def end(self) -> None:
        if self.spans:
            self.spans[-1][1] = time.monotonic()

    @property
    def is_open(self) -> bool:
        """The server is dead or on its way up."""
        return bool(self.spans) and self.spans[-1][1] == float("inf")

    def excuse(self, started: float, ended: float) -> bool:
        """A request of this time was in flight, or came, while the server was dead."""
        return any(started <= over and ended >= killed for killed, over in self.spans)


@dataclass(slots=True)
class Addresses:
    grpc: str
    http: str


class Traffic:
    """What all workers share: addresses, known answers, and the count of what happened."""

    def __init__(self, addresses: Addresses, tokenizer: Tokenizer, faults: Faults) -> None:
        self._addresses = addresses
        self._tokenizer = tokenizer
        self._faults = faults
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.known = {case.name: "".join(events(addresses.http, "ensemble", case.inputs)) for case in CASES}
        self._acts: dict[str, Callable[[random.Random], None]] = {
            "answer": self._answer,
            "events": self._events,
            "tokens": self._tokens,
            "cancelled": self._cancelled,
            "disconnected": self._disconnected,
            "refused": self._refused,
            "killed": self._killed,
        }

    def start(self, workers: int, seed: int) -> None:
        for number in range(workers):
            rng = random.Random(f"{seed} {number}")  # noqa: S311 - no secret
            self._threads.append(threading.Thread(target=self._work, args=(rng,), name=f"traffic-{number}"))
            self._threads[-1].start()

    def stop(self) -> None:
        """Return when every worker has its last answer."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT_S)
            if thread.is_alive():
                self._problem(f"{thread.name} did not end: a request hangs")

    def _work(self, rng: random.Random) -> None:
        while not self._stopping.is_set():
            [act] = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
            started = time.monotonic()
            try:
                self._acts[act](rng)
                self._count(f"{act}: as known")
            except WrongAnswerError as error:
                self._problem(f"{act}: {error}")
            except (SlipstreamError, OSError, http.client.HTTPException, ValueError) as error:
                self._failed(act, started, error)
                time.sleep(0.2)  # the server may be on its way up

    def _failed(self, act: str, started: float, error: Exception) -> None:
        ended = time.monotonic()
        if not self._faults.excuse(started, ended):
            self._problem(f"{act}: without a fault: {type(error).__name__}: {error}")
        elif ended - started > TIMEOUT_S - 1:
            self._problem(f"{act}: no error came after a kill: {type(error).__name__}: {error}")
        else:
            self._count(f"{act}: in flight at a kill or before the server was back")

    def _answer(self, rng: random.Random) -> None:
        case, model = rng.choice(CASES), rng.choice(MODELS)
        _same(self.known[case.name], answer(self._addresses.http, model, case.inputs), f"{model} {case.name}")

    def _events(self, rng: random.Random) -> None:
        case, model = rng.choice(CASES), rng.choice(MODELS)
        text = "".join(events(self._addresses.http, model, case.inputs))
        _same(self.known[case.name], text, f"{model} {case.name} in events")

    def _tokens(self, rng: random.Random) -> None:
        case = rng.choice([case for case in CASES if case.is_plain])
        ids = self._tokenizer.encode(str(case.inputs["text_input"]))
        with self._client() as client:
            end_id = self._tokenizer.eos_ids[0]
            most = int(str(case.inputs["max_tokens"]))
            found = client.stream_tokens(ids, max_tokens=most, end_id=end_id).finish().token_ids
        text = self._tokenizer.decode(found[: found.index(end_id)] if end_id in found else found)
        _same(self.known[case.name], text, f"tensorrt_llm {case.name}")

    def _cancelled(self, rng: random.Random) -> None:
        case, model = _long(rng), rng.choice(MODELS)
        with self._client() as client:
            most = int(str(case.inputs["max_tokens"]))
            stream = client.stream(str(case.inputs["text_input"]), max_tokens=most, model=model)
            pieces = _some(rng, (chunk.text for chunk in stream))
            stream.close()
        _beginning(self.known[case.name], pieces, f"{model} {case.name} until it was cancelled")

    def _disconnected(self, rng: random.Random) -> None:
        case, model = _long(rng), rng.choice(MODELS)
        stream = events(self._addresses.http, model, case.inputs)
        pieces = _some(rng, stream)
        stream.close()  # type: ignore[attr-defined]  # a generator
        _beginning(self.known[case.name], pieces, f"{model} {case.name} until it was disconnected")

    def _refused(self, rng: random.Random) -> None:
        (inputs, said), model = rng.choice(BAD), rng.choice(MODELS)
        try:
            text = answer(self._addresses.http, model, inputs)
        except SlipstreamError as error:
            if said not in str(error):
                raise
        else:
            raise WrongAnswerError(f"{model} gave {text!r}, not the error {said!r}")

    def _killed(self, rng: random.Random) -> None:
        command = [sys.executable, "-c", _CLIENT, self._addresses.grpc, rng.choice(MODELS)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            has_text = bool(process.stdout.readline())
            process.kill()
        if not has_text:
            raise SlipstreamError("a client ended before it had text", mend="")

    def _client(self) -> TritonClient:
        return TritonClient(self._addresses.grpc, deadline_s=TIMEOUT_S, connect_timeout_s=1.0)

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def _problem(self, what: str) -> None:
        self._count("problems")
        with self._lock:
            if len(self.problems) < _MOST_PROBLEMS:
                self.problems.append(what)


def total(counts: Mapping[str, int]) -> int:
    """Requests made."""
    return sum(counts.values())


def _long(rng: random.Random) -> Case:
    return rng.choice([case for case in CASES if case.is_plain and int(str(case.inputs["max_tokens"])) > 20])


def _some(rng: random.Random, pieces: Iterator[str]) -> str:
    """The text of the first few pieces."""
    text = ""
    for _ in range(rng.randrange(1, 15)):
        text += next(pieces, "")
    return text


def _same(known: str, text: str, what: str) -> None:
    if text != known:
        raise WrongAnswerError(f"{what}: {text!r}, known is {known!r}")


def _beginning(known: str, text: str, what: str) -> None:
    if not known.startswith(text):
        raise WrongAnswerError(f"{what}: {text!r}, known is {known!r}")
