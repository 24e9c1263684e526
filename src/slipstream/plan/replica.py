"""One replica in simulated time: in-flight batching iteration by iteration, paged KV, chunked prefill, prefix reuse.

Iterations in which nothing begins or ends differ only by the growing KV cache, so a run of them is one closed sum; a
request costs a handful of steps, however long its reply.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

import numpy as np

from slipstream.plan.calibration import Calibration
from slipstream.plan.cases import Case, columns
from slipstream.plan.cost import breakdown, step_seconds
from slipstream.plan.memory import BLOCK_TOKENS


@dataclass(slots=True)
class Request:
    """One request on its way; times in seconds, unset until they happen."""

    arrival_s: float
    input_tokens: int
    output_tokens: int
    prefix: int = 0  # requests with equal numbers share their first `prefix_tokens`; 0: none
    prefix_tokens: int = 0
    first_s: float = math.nan
    finish_s: float = math.nan
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """The cost model of one case, tabulated for the simulator."""

    decode_s: list[float]  # by running replies, without the KV cache
    mixed_s: list[float]  # by tokens of an iteration that holds prompts
    kv_s: float  # per token of context read
    attention_s: float  # per pair of a prompt's token and one before it
    reply_s: float  # per running reply in a mixed iteration
    kv_capacity_tokens: int
    max_batch: int
    max_num_tokens: int


def step_times(case: Case, known: Calibration, *, max_batch: int, kv_capacity_tokens: int) -> StepTimes:
    """Tabulate the cost model for the iterations of `case`."""
    c, k = columns([case]), known.coefficients
    replies = np.arange(max_batch + 1, dtype=np.float64)
    zero = np.zeros(1)
    whole = breakdown(c, k, replies, zero)
    context = case.input_tokens + case.output_tokens / 2
    kv = float(whole["reading the KV cache"][-1]) / max_batch / context
    decode = step_seconds(c, k, replies, zero) - whole["reading the KV cache"]
    tokens = np.arange(case.max_num_tokens + 1, dtype=np.float64)
    one = breakdown(c, k, zero, tokens / case.input_tokens)
    prompts = step_seconds(c, k, zero, tokens / case.input_tokens)
    attention = one["attention arithmetic"]
    pairs = tokens * case.input_tokens / 2
    per_request = float(decode[-1] - step_seconds(c, k, zero, np.array([max_batch / case.input_tokens]))[0])
    return StepTimes(
        decode_s=[float(value) for value in decode],
        mixed_s=[float(value) for value in prompts - attention],
        kv_s=kv,
        attention_s=float(attention[-1] / pairs[-1]),
        reply_s=max(0.0, per_request / max_batch),
        kv_capacity_tokens=kv_capacity_tokens,
        max_batch=max_batch,
        max_num_tokens=case.max_num_tokens,
    )


@dataclass(slots=True)
class _Prefill:
    request: Request
    done: int  # tokens of the prompt in the KV cache


@dataclass(slots=True)
class Replica:
    """A server with a queue; `advance` moves it on."""

    times: StepTimes
    now_s: float = 0.0
    busy_s: float = 0.0
    iteration: int = 0
    context_tokens: int = 0  # of running replies
    reserved_tokens: int = 0
    waiting: deque[Request] = field(default_factory=deque)
    prefilling: deque[_Prefill] = field(default_factory=deque)
    running: list[tuple[int, int, Request]] = field(default_factory=list)  # heap by last iteration
    prefixes: OrderedDict[int, int] = field(default_factory=OrderedDict)
    prefix_hits: int = 0
    count: int = 0

    @property
    def outstanding(self) -> int:
        return len(self.waiting) + len(self.prefilling) + len(self.running)

    def accept(self, request: Request, at_s: float) -> None:
        """Queue a request; the replica must have advanced to `at_s`."""
        if not self.outstanding:
            self.now_s = max(self.now_s, at_s)
        self.waiting.append(request)

    def advance(self, until_s: float) -> list[Request]:
        """Run iterations that begin before `until_s`; the requests that ended, in order."""
        ended: list[Request] = []
        while self.now_s < until_s and self.outstanding:
            self._admit()
            if self.prefilling:
                self._mixed_iteration(ended)
            else:
                self._decode_iterations(until_s, ended)
        return ended

    def fail(self) -> list[Request]:
        """Lose everything that is under way; the requests to send elsewhere."""
        lost = [*self.waiting, *(p.request for p in self.prefilling), *(request for _, _, request in self.running)]
        self.waiting.clear()
        self.prefilling.clear()
        self.running.clear()
        self.prefixes.clear()
        self.context_tokens = self.reserved_tokens = 0
        return sorted(lost, key=lambda request: request.arrival_s)

    def _admit(self) -> None:
        while self.waiting and len(self.running) + len(self.prefilling) < self.times.max_batch:
            request = self.waiting[0]
            needed = _reserved(request)
            if self.reserved_tokens + needed > self.times.kv_capacity_tokens and self.reserved_tokens:
                return
            self.waiting.popleft()
            self.reserved_tokens += needed
            self.prefilling.append(_Prefill(request, self._reused(request)))

    def _reused(self, request: Request) -> int:
        """Tokens of the prompt that an earlier request left in the cache; at least one is always computed."""
        if not request.prefix:
            return 0
        known = self.prefixes.pop(request.prefix, 0)
        self.prefixes[request.prefix] = max(known, request.prefix_tokens)
        room = self.times.kv_capacity_tokens - self.reserved_tokens
        while self.prefixes and sum(self.prefixes.values()) > max(room, 0):
            self.prefixes.popitem(last=False)
        reused = min(known, request.prefix_tokens, request.input_tokens - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        self.prefix_hits += reused > 0
        return reused

    def _mixed_iteration(self, ended: list[Request]) -> None:
        times, replies = self.times, len(self.running)
        budget = times.max_num_tokens - replies
        tokens, pairs, ready = replies, 0.0, []
        for prefill in self.prefilling:
            chunk = min(prefill.request.input_tokens - prefill.done, budget)
            if chunk <= 0:
                break
            pairs += chunk * (prefill.done + chunk / 2)
            prefill.done += chunk
            budget -= chunk
            tokens += chunk
            if prefill.done == prefill.request.input_tokens:
                ready.append(prefill.request)
        seconds = times.mixed_s[tokens] + times.attention_s * pairs + replies * times.reply_s
        self._pass(seconds + times.kv_s * self.context_tokens, 1, ended)
        for request in ready:
            self.prefilling.popleft()
            self._begin_reply(request, ended)

    def _begin_reply(self, request: Request, ended: list[Request]) -> None:
        if math.isnan(request.first_s):
            request.first_s = self.now_s
        if request.output_tokens <= 1:
            self._end(request, ended)
            return
        self.count += 1
        self.context_tokens += request.input_tokens + 1
        heapq.heappush(self.running, (self.iteration + request.output_tokens - 1, self.count, request))

    def _decode_iterations(self, until_s: float, ended: list[Request]) -> None:
        times, replies = self.times, len(self.running)
        most = self.running[0][0] - self.iteration
        first = times.decode_s[replies] + times.kv_s * self.context_tokens
        growth = times.kv_s * replies
        steps = min(most, _steps_within(first, growth, until_s - self.now_s))
        self._pass(steps * first + growth * steps * (steps - 1) / 2, steps, ended)

    def _pass(self, seconds: float, steps: int, ended: list[Request]) -> None:
        self.now_s += seconds
        self.busy_s += seconds
        self.iteration += steps
        self.context_tokens += steps * len(self.running)
        while self.running and self.running[0][0] <= self.iteration:
            request = heapq.heappop(self.running)[2]
            self.context_tokens -= request.input_tokens + request.output_tokens
            self._end(request, ended)

    def _end(self, request: Request, ended: list[Request]) -> None:
        request.finish_s = self.now_s
        self.reserved_tokens -= _reserved(request)
        ended.append(request)


def _reserved(request: Request) -> int:
    """Tokens kept free for a request until it ends: TensorRT-LLM's guaranteed_no_evict."""
    return BLOCK_TOKENS * math.ceil((request.input_tokens + request.output_tokens) / BLOCK_TOKENS)


def _steps_within(first: float, growth: float, seconds: float) -> int:
    """The least number of iterations that reach `seconds`, each `growth` longer than the one before."""
    if math.isinf(seconds):
        return 1 << 62
    if growth <= 0:
        return max(1, math.ceil(seconds / first))
    base = first - growth / 2
    return max(1, math.ceil((math.sqrt(base * base + 2 * growth * seconds) - base) / growth))
