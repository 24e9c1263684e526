"""A cluster of replicas in simulated time: arrivals, routing, failures, autoscaling; equal seeds give equal results."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from slipstream.plan.cases import Floats
from slipstream.plan.replica import Replica, Request, StepTimes

Policy = Literal["round_robin", "least_outstanding", "power_of_two", "prefix_affinity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A replica that goes away, and comes back empty."""

    replica: int
    at_s: float
    for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaling:
    """Add a replica when the mean of outstanding requests is above the target, remove an idle one when far below."""

    minimum: int
    maximum: int
    target_outstanding: float
    start_s: float  # from the decision to the first request
    interval_s: float = 15  # KEDA's polling interval is a setting; 15 s is the HPA's sync period


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What clients saw."""

    requests: int
    seconds: float
    requests_per_s: float
    output_tokens_per_s: float
    ttft_ms: dict[str, float]
    itl_ms: dict[str, float]  # mean over tokens; percentiles over the requests' own means
    e2e_ms: dict[str, float]
    utilization: float  # mean share of time that replicas that were up computed
    prefix_hits: int
    retries: int
    replicas_most: int
    replica_hours: float


@dataclass(slots=True)
class Cluster:
    """Replicas behind one router."""

    times: StepTimes
    size: int
    policy: Policy
    seed: int = 0
    failures: Sequence[Failure] = ()
    autoscaling: Autoscaling | None = None
    replicas: list[Replica] = field(init=False)
    up: list[int] = field(init=False)
    turn: int = field(init=False, default=0)
    events: list[tuple[float, int, str, int]] = field(init=False, default_factory=list)
    random: np.random.Generator = field(init=False)
    up_since: dict[int, float] = field(init=False, default_factory=dict)
    up_seconds: float = field(init=False, default=0.0)
    starting: int = field(init=False, default=0)
    peak: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.replicas = [Replica(self.times) for _ in range(self.size)]
        self.up = list(range(self.size))
        self.up_since = dict.fromkeys(self.up, 0.0)
        self.peak = self.size
        self.random = np.random.default_rng(self.seed)
        for number, failure in enumerate(self.failures):
            heapq.heappush(self.events, (failure.at_s, number, "fail", failure.replica))
            heapq.heappush(self.events, (failure.at_s + failure.for_s, number, "return", failure.replica))
        if self.autoscaling is not None:
            heapq.heappush(self.events, (self.autoscaling.interval_s, 1 << 30, "scale", 0))

    def run(self, requests: Sequence[Request]) -> Outcome:
        """Serve all requests, which are sorted by arrival, to their end."""
        for request in requests:
            self._events_before(request.arrival_s)
            self._route(request, request.arrival_s)
        # Failures that come after the last arrival still hit what is under way.
        last = requests[-1].arrival_s if requests else 0.0
        while any(self.replicas[i].outstanding for i in self.up) and self._is_failure_ahead():
            last = max(last, self.events[0][0])
            self._events_before(math.nextafter(last, math.inf))
        for replica in self.replicas:
            replica.advance(math.inf)
        return self._outcome(requests)

    def _is_failure_ahead(self) -> bool:
        return any(kind != "scale" for _, _, kind, _ in self.events)

    def _events_before(self, until_s: float) -> None:
        while self.events and self.events[0][0] < until_s:
            at_s, order, kind, number = heapq.heappop(self.events)
            if kind == "fail":
                self._fail(number, at_s)
            elif kind == "return":
                self._bring_up(number, at_s)
            elif kind == "start":
                self.starting -= 1
                self.replicas.append(Replica(self.times, now_s=at_s))
                self._bring_up(len(self.replicas) - 1, at_s)
            else:
                self._scale(at_s, order)

    def _route(self, request: Request, at_s: float) -> None:
        if not self.up:
            # Nothing is up: the router holds the request until something returns.
            back_s = min((at for at, _, kind, _ in self.events if kind in {"return", "start"}), default=math.inf)
            if math.isinf(back_s):
                return
            self._events_before(math.nextafter(back_s, math.inf))
            self._route(request, back_s)
            return
        replica = self.replicas[self._choose(request, at_s)]
        replica.advance(at_s)
        replica.accept(request, at_s)

    def _choose(self, request: Request, at_s: float) -> int:
        if self.policy == "round_robin" or len(self.up) == 1:
            self.turn += 1
            return self.up[self.turn % len(self.up)]
        if self.policy == "power_of_two":
            # Two draws of the same replica are possible and harmless; only these two are moved on.
            pair = self.random.random(2) * len(self.up)
            return self._shortest([self.up[int(pair[0])], self.up[int(pair[1])]], at_s)
        if self.policy == "prefix_affinity" and request.prefix:
            home = self.up[request.prefix % len(self.up)]
            other = self._shortest(self.up, at_s)
            # Affinity yields when its replica is a batch longer than the shortest.
            far = self.replicas[home].outstanding - self.replicas[other].outstanding
            return home if far <= self.times.max_batch else other
        return self._shortest(self.up, at_s)

    def _shortest(self, among: list[int], at_s: float) -> int:
        for number in among:
            self.replicas[number].advance(at_s)
        return min(among, key=lambda number: self.replicas[number].outstanding)

    def _fail(self, number: int, at_s: float) -> None:
        if number not in self.up:
            return
        self.replicas[number].advance(at_s)
        lost = self.replicas[number].fail()
        self.up.remove(number)
        self.up_seconds += at_s - self.up_since.pop(number)
        for request in lost:
            request.retries += 1
            self._route(request, at_s)

    def _bring_up(self, number: int, at_s: float) -> None:
        if number not in self.up:
            self.replicas[number].now_s = max(self.replicas[number].now_s, at_s)
            self.up.append(number)
            self.up_since[number] = at_s
            self.peak = max(self.peak, len(self.up))

    def _scale(self, at_s: float, order: int) -> None:
        scaling = self.autoscaling
        assert scaling is not None
        for number in self.up:
            self.replicas[number].advance(at_s)
        total = sum(self.replicas[number].outstanding for number in self.up)
        wanted = min(scaling.maximum, max(scaling.minimum, math.ceil(total / scaling.target_outstanding)))
        for extra in range(wanted - len(self.up) - self.starting):
            self.starting += 1
            heapq.heappush(self.events, (at_s + scaling.start_s, order + 1 + extra, "start", 0))
        idle = [number for number in self.up if not self.replicas[number].outstanding]
        for number in idle[: max(0, len(self.up) - wanted)]:
            self.up.remove(number)
            self.up_seconds += at_s - self.up_since.pop(number)
        heapq.heappush(self.events, (at_s + scaling.interval_s, order + 64, "scale", 0))

    def _outcome(self, requests: Sequence[Request]) -> Outcome:
        done = [request for request in requests if not math.isnan(request.finish_s)]
        end = max((request.finish_s for request in done), default=0.0)
        begin = min((request.arrival_s for request in done), default=0.0)
        seconds = max(end - begin, 1e-9)
        self.up_seconds += sum(max(0.0, end - since) for since in self.up_since.values())
        arrival, first, finish = (
            np.array([getattr(request, name) for request in done]) for name in ("arrival_s", "first_s", "finish_s")
        )
        outputs = np.array([request.output_tokens for request in done], dtype=np.float64)
        several = outputs > 1
        return Outcome(
            requests=len(done),
            seconds=seconds,
            requests_per_s=len(done) / seconds,
            output_tokens_per_s=float(outputs.sum()) / seconds,
            ttft_ms=_percentiles(1e3 * (first - arrival)),
            itl_ms=_percentiles(1e3 * (finish - first)[several] / (outputs[several] - 1), outputs[several] - 1),
            e2e_ms=_percentiles(1e3 * (finish - arrival)),
            utilization=sum(replica.busy_s for replica in self.replicas) / max(self.up_seconds, 1e-9),
            prefix_hits=sum(replica.prefix_hits for replica in self.replicas),
            retries=sum(request.retries for request in done),
            replicas_most=self.peak,
            replica_hours=self.up_seconds / 3600,
        )


def _percentiles(values: Floats, weights: Floats | None = None) -> dict[str, float]:
    """Mean (weighted) and percentiles (of the requests)."""
    if not len(values):
        return {}
    middle, high, highest = np.quantile(values, [0.5, 0.95, 0.99])
    return {
        "mean": float(np.average(values, weights=weights)),
        "p50": float(middle),
        "p95": float(high),
        "p99": float(highest),
    }
