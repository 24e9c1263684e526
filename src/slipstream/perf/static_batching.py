"""In-flight batching against static batching: the same engine, the same requests, three ways to fill its batch.

`in flight` begins a request as soon as there is room. `static` takes what waits, and begins nothing until all of it has
ended, but a row that has ended costs nothing more and its reply goes out at once: the kindest static batching there is.
`static, padded` is how it was built: rows are as long as the longest prompt and the longest output among them, and
replies go out when the batch has ended.

Requests come by a Poisson process, the same for each way; the lengths are those of a trace, shortened to the engine's
context. Everything runs in one process with the bare engine: what is compared is the batching and nothing else.
"""

from __future__ import annotations

import csv
import itertools
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slipstream.backend.pipeline import Generation, Pipeline
from slipstream.perf.bare_engine import forced_generation
from slipstream.progress import Reporter

IN_FLIGHT, STATIC, PADDED = "in flight", "static", "static, padded"
POLICIES = (IN_FLIGHT, STATIC, PADDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Of one request, in tokens."""

    prompt: int
    output: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request and when it comes, in seconds since the first."""

    at_s: float
    prompt_ids: list[int]
    output_tokens: int


@dataclass(slots=True, kw_only=True)
class Reply:
    """What became of an arrival: seconds from its coming to its first and to its last token."""

    ttft_s: float = 0.0
    latency_s: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """All replies of one policy at one rate."""

    policy: str
    offered_per_s: float | None  # none: all at once
    replies: list[Reply]
    wall_s: float


def read_lengths(path: Path, *, shrink: int, max_seq_len: int) -> list[Lengths]:
    """A trace's lengths divided by `shrink`; no request is longer than `max_seq_len`."""
    lengths = []
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            output = min(max(1, int(row["output_tokens"]) // shrink), max_seq_len // 2)
            prompt = min(max(1, int(row["input_tokens"]) // shrink), max_seq_len - output)
            lengths.append(Lengths(prompt=prompt, output=output))
    return lengths


def make_arrivals(lengths: Sequence[Lengths], per_s: float | None, ids: Sequence[int]) -> list[Arrival]:
    """Poisson arrivals at a mean rate of `per_s`, or all at once; prompts are windows of `ids`."""
    dice, at_s, arrivals = random.Random(0), 0.0, []  # noqa: S311 - arrivals, not secrets
    for one in lengths:
        start = dice.randrange(len(ids) - one.prompt)
        prompt = list(ids[start : start + one.prompt])
        arrivals.append(Arrival(at_s=at_s, prompt_ids=prompt, output_tokens=one.output))
        at_s += dice.expovariate(per_s) if per_s else 0.0
    return arrivals


def compare_policies(
    pipeline: Pipeline,
    lengths: Sequence[Lengths],
    ids: Sequence[int],
    *,
    load_shares: Sequence[float],
    batch: int,
    report: Reporter,
) -> list[Played]:
    """All requests at once, then at `load_shares` of the rate at which in-flight batching served them so.

    The policies take turns at each rate.
    """
    handles = itertools.count()
    warm_up = make_arrivals(lengths[:batch], None, ids)
    play(pipeline, warm_up, IN_FLIGHT, batch, handles)  # the first requests compile kernels
    played: list[Played] = []
    for number, share in enumerate((None, *load_shares)):
        per_s = share * len(lengths) / played[0].wall_s if share else None
        for policy in POLICIES:
            report(
                f"{policy}, {f'{per_s:.1f} requests/s' if per_s else 'all at once'}", number / (len(load_shares) + 1)
            )
            replies, wall_s = play(pipeline, make_arrivals(lengths, per_s, ids), policy, batch, handles)
            played.append(Played(policy=policy, offered_per_s=per_s, replies=replies, wall_s=wall_s))
    return played


def play(
    pipeline: Pipeline, arrivals: Sequence[Arrival], policy: str, batch: int, handles: Iterator[int]
) -> tuple[list[Reply], float]:
    """Serve `arrivals` as they come, at most `batch` together; their replies and the seconds until the last ended.

    `handles` are numbers that this pipeline has not seen.
    """
    batcher = _Batcher(pipeline=pipeline, arrivals=arrivals, policy=policy, batch=batch, handles=handles)
    started = time.monotonic()
    while batcher.has_work:
        batcher.turn(started)
    return batcher.replies, time.monotonic() - started


@dataclass(slots=True, kw_only=True)
class _Batcher:
    pipeline: Pipeline
    arrivals: Sequence[Arrival]
    policy: str
    batch: int
    handles: Iterator[int]
    coming: deque[int] = field(init=False)  # indices of arrivals
    waiting: deque[int] = field(default_factory=deque)
    running: dict[int, Generation] = field(default_factory=dict)
    together: list[int] = field(default_factory=list)  # the static batch that runs
    replies: list[Reply] = field(init=False)

    def __post_init__(self) -> None:
        self.coming = deque(range(len(self.arrivals)))
        self.replies = [Reply() for _ in self.arrivals]

    @property
    def has_work(self) -> bool:
        return bool(self.coming or self.waiting or self.running)

    def turn(self, started: float) -> None:
        """Take what has come, begin what the policy lets begin, and step."""
        now_s = time.monotonic() - started
        while self.coming and self.arrivals[self.coming[0]].at_s <= now_s:
            self.waiting.append(self.coming.popleft())
        self._begin()
        if not self.running:
            time.sleep(max(0.0, self.arrivals[self.coming[0]].at_s - now_s))
            return
        self.pipeline.step()
        self._read(time.monotonic() - started)

    def _begin(self) -> None:
        if self.policy != IN_FLIGHT and self.running:
            return
        room = min(self.batch - len(self.running), len(self.waiting))
        begun = [self.waiting.popleft() for _ in range(room)]
        self.together = begun
        longest = max((len(self.arrivals[index].prompt_ids) for index in begun), default=0)
        most = max((self.arrivals[index].output_tokens for index in begun), default=0)
        for index in begun:
            one = self.arrivals[index]
            prompt, tokens = one.prompt_ids, one.output_tokens
            if self.policy == PADDED:
                prompt, tokens = _repeated(prompt, longest), most
            self.running[index] = self.pipeline.add(forced_generation(next(self.handles), prompt, tokens))

    def _read(self, now_s: float) -> None:
        for index, generation in list(self.running.items()):
            new = generation.read()
            if new is None:
                continue
            reply, since_s = self.replies[index], now_s - self.arrivals[index].at_s
            reply.ttft_s = reply.ttft_s or since_s
            reply.tokens = min(reply.tokens + len(new.ids), self.arrivals[index].output_tokens)
            reply.latency_s = since_s
            if new.ending is not None:
                del self.running[index]
        if self.policy == PADDED and not self.running:
            for index in self.together:
                self.replies[index].latency_s = now_s - self.arrivals[index].at_s


def _repeated(ids: list[int], length: int) -> list[int]:
    return (ids * -(-length // len(ids)))[:length]
