"""Limits and the queue as a client of the gateway meets them."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from slipstream.errors import SlipstreamError
from slipstream.gateway.admission import Admission, AdmissionWatch, Cost, limits_of
from slipstream.gateway.caller import Caller, CallerLimits
from slipstream.gateway.deadline import deadline_at
from slipstream.gateway.errors import ApiError
from slipstream.gateway.exchange import Exchange
from slipstream.gateway.keys import Grant, KeyFile
from slipstream.gateway.limits.guarded_store import GuardedStore
from slipstream.gateway.limits.memory import MemoryStore
from slipstream.gateway.limits.values import Demand, Refused, Reserved, StoreFailedError
from slipstream.gateway.observability.metrics import Metrics
from slipstream.gateway.security import Security
from slipstream.gateway.services import Models, Services
from slipstream.gateway.shared_admission import MeteredAdmission, SharedAdmission
from slipstream.spec import GatewayAdmissionSpec, GatewayLimitsSpec, GatewaySpec, SecuritySpec
from tests.fakes.gateway import a_model, gateway
from tests.fakes.triton import FakeTriton, Script
from tests.unit.limit_steps import Clock
from tests.unit.small_tokenizers import byte_level

TOKENS = byte_level().encode("The quick brown fox")
PROMPT = [TOKENS[0]] * 10


class Events(AdmissionWatch):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def refused(self, model: str, caller: Caller, reason: str) -> None:
        self.seen.append(f"{model} {caller.id} {reason}")

    def store_failed(self, error: str) -> None:
        self.seen.append(error)


class BrokenStore(MemoryStore):
    async def reserve(self, demand: Demand) -> Reserved | Refused:
        raise StoreFailedError("ConnectionError")


@contextlib.contextmanager
def a_gateway(
    script: Script, admission: Callable[[], Admission], spec: GatewaySpec
) -> Iterator[tuple[str, FakeTriton]]:
    with FakeTriton({"tensorrt_llm": script}) as triton:
        models = lambda: Models([a_model(triton.address)])  # noqa: E731 - made inside the gateway's loop
        with gateway(lambda: Services(spec=spec, models=models(), admission=admission())) as url:
            yield url, triton


@contextlib.contextmanager
def limited(script: Script | None = None, **limits: Any) -> Iterator[tuple[str, FakeTriton]]:
    spec = GatewaySpec(limits=GatewayLimitsSpec(**limits))
    script = script or Script(pieces=[[token] for token in TOKENS])
    with a_gateway(script, lambda: Admission(spec), spec) as served:
        yield served


class Answer:
    """What came back for a completion of ten prompt tokens."""

    def __init__(self, url: str, headers: dict[str, str] | None = None, **changes: Any) -> None:
        self.connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        body = {"model": "small", "prompt": PROMPT, "max_tokens": 50, **changes}
        self.connection.request(
            "POST", "/v1/completions", json.dumps(body), {"content-type": "application/json", **(headers or {})}
        )

    def begin(self) -> int:
        """The status; the rest is not read."""
        self.response = self.connection.getresponse()
        return self.response.status

    def leave(self) -> None:
        self.connection.close()
        if hasattr(self, "response"):
            self.response.close()

    def read(self) -> http.client.HTTPResponse:
        self.response = self.connection.getresponse()
        self.content = self.response.read()
        return self.response

    @property
    def code(self) -> str:
        code: str = json.loads(self.content)["error"]["code"]
        return code


def test_an_answer_says_what_is_left() -> None:
    with limited(requests_per_minute=5, tokens_per_minute=200) as (url, _):
        response = Answer(url).read()
        assert response.status == 200
        found = {name: value for name, value in response.headers.items() if name.startswith("x-ratelimit-")}
        assert found.keys() == {
            f"x-ratelimit-{a}-{b}" for a in ("limit", "remaining", "reset") for b in ("requests", "tokens")
        }
        assert found["x-ratelimit-remaining-requests"] == "4"
        assert found["x-ratelimit-remaining-tokens"] == "140"


@pytest.mark.parametrize("stream", [False, True])
def test_what_max_tokens_left_over_is_there_for_the_next_request(stream: bool) -> None:
    with limited(tokens_per_minute=100) as (url, _):
        Answer(url, stream=stream).read()
        left = Answer(url, stream=stream).read().headers["x-ratelimit-remaining-tokens"]
        assert left == str(100 - (len(PROMPT) + len(TOKENS)) - 60)


def test_a_request_over_the_limit_is_refused_with_the_time_to_wait() -> None:
    with limited(requests_per_minute=1) as (url, triton):
        Answer(url).read()
        again = Answer(url)
        response = again.read()
        assert (response.status, again.code) == (429, "rate_limit_exceeded")
        assert 55 <= int(response.headers["retry-after"]) <= 61
        assert response.headers["x-ratelimit-remaining-requests"] == "0"
        assert len(triton.received) == 1


def test_choices_are_paid_for_each_and_their_prompt_once() -> None:
    with limited(tokens_per_minute=1000) as (url, _):
        assert Answer(url, n=3).read().headers["x-ratelimit-remaining-tokens"] == str(1000 - 10 - 3 * 50)
        assert Answer(url).read().headers["x-ratelimit-remaining-tokens"] == str(1000 - 10 - 3 * len(TOKENS) - 60)


def test_a_request_that_can_never_fit_is_told_so_and_not_to_come_again() -> None:
    with limited(tokens_per_minute=50) as (url, _):
        answer = Answer(url)
        response = answer.read()
        assert (response.status, response.headers["x-should-retry"]) == (429, "false")
        assert b"lower max_tokens by 10" in answer.content


def test_a_failure_without_a_token_costs_a_request_and_no_tokens() -> None:
    with limited(Script(error="no"), requests_per_minute=5, tokens_per_minute=60) as (url, _):
        for left in ("4", "3"):
            response = Answer(url).read()
            assert (response.status, response.headers["x-ratelimit-remaining-requests"]) == (400, left)


def test_a_client_that_leaves_gets_its_place_and_the_unused_tokens_back() -> None:
    with limited(Script(pieces=[[TOKENS[0]]], hangs=True), concurrent_requests=1, tokens_per_minute=100) as (
        url,
        triton,
    ):
        first = Answer(url, stream=True)
        assert first.begin() == 200
        assert Answer(url).read().status == 429
        first.leave()
        assert triton.wait_until_cancelled()
        until = time.monotonic() + 5
        while (again := Answer(url, stream=True)).begin() == 429:
            assert time.monotonic() < until
        assert int(again.response.headers["x-ratelimit-remaining-tokens"]) == 100 - 60 - 11
        again.leave()


@pytest.fixture(scope="module")
def full() -> Iterator[tuple[str, FakeTriton]]:
    """One request runs, and never ends; one may wait."""
    spec = GatewaySpec(admission=GatewayAdmissionSpec(max_running=1, max_waiting=1))
    with a_gateway(Script(pieces=[[TOKENS[0]]], hangs=True), lambda: Admission(spec), spec) as (url, triton):
        running = Answer(url, stream=True)
        triton.wait_until_received()
        yield url, triton
        running.leave()


def test_a_deadline_that_passes_in_the_queue_costs_the_engine_nothing(full: tuple[str, FakeTriton]) -> None:
    url, triton = full
    for headers in ({"x-request-deadline-ms": "20"}, {"x-stainless-read-timeout": "0.02"}):
        late = Answer(url, headers)
        assert (late.read().status, late.code) == (504, "deadline_exceeded")
    assert len(triton.received) == 1


def test_the_place_of_a_client_that_leaves_the_queue_is_free_again(full: tuple[str, FakeTriton]) -> None:
    url, triton = full
    waits = Answer(url)
    until = time.monotonic() + 5
    while (refused := Answer(url, {"x-request-deadline-ms": "5"})).read().status != 429:
        assert time.monotonic() < until
    assert refused.code == "queue_full"
    waits.leave()
    while Answer(url, {"x-request-deadline-ms": "5"}).read().status != 504:
        assert time.monotonic() < until
    assert len(triton.received) == 1


def test_a_caller_with_many_requests_does_not_hold_up_one_with_few(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    bearer = {name: {"authorization": f"Bearer {keys.add(name, Grant()).text}"} for name in ("greedy", "modest")}
    spec = GatewaySpec(admission=GatewayAdmissionSpec(max_running=1), security=SecuritySpec(keys_file=str(keys.path)))
    script = Script(pieces=[[TOKENS[0]]], delay_s=0.05)

    def services() -> Services:
        security = Security.open(spec.security, root=tmp_path)
        return Services(
            spec=spec, models=Models([a_model(triton.address)]), security=security, admission=Admission(spec)
        )

    with FakeTriton({"tensorrt_llm": script}) as triton, gateway(services) as url:
        many = [Answer(url, bearer["greedy"]) for _ in range(12)]
        triton.wait_until_received()
        few = Answer(url, bearer["modest"], prompt=[TOKENS[1]])
        for answer in (*many, few):
            assert answer.read().status == 200
        prompts = [received.inputs["input_ids"] for received in triton.received]
    assert prompts.index([TOKENS[1]]) < 11  # not the last, as it came


def enter(admission: Admission, caller: Caller, *, tokens: int = 10, used: int | None = None) -> dict[str, str]:
    """One request, from its limits to its end; the headers that it brought."""

    return asyncio.run(count(admission, caller, tokens=tokens, used=used))


async def count(admission: Admission, caller: Caller, *, tokens: int = 10, used: int | None = 0) -> dict[str, str]:
    """The same, in a loop that runs."""
    exchange = Exchange(caller=caller)
    cost = Cost(tokens=tokens, kv_tokens=tokens, choices=1)
    async with admission.enter(exchange, a_model("127.0.0.1:1"), cost) as ticket:
        if used is not None:
            ticket.settle(used)
    return exchange.headers


def test_an_answer_from_a_cache_costs_a_request_and_no_tokens() -> None:
    admission = Admission(GatewaySpec(limits=GatewayLimitsSpec(requests_per_minute=10, tokens_per_minute=10)))
    caller = Caller(id="a", name="a")
    assert [enter(admission, caller, used=0)["x-ratelimit-remaining-requests"] for _ in range(2)] == ["9", "8"]


def test_a_request_that_never_had_its_turn_costs_nothing() -> None:
    admission = Admission(GatewaySpec(limits=GatewayLimitsSpec(requests_per_minute=1, tokens_per_minute=10)))
    for _ in range(3):
        assert enter(admission, Caller(id="a", name="a"))["x-ratelimit-remaining-requests"] == "0"


def test_a_caller_without_limits_of_its_own_has_those_of_the_gateway() -> None:
    spec = GatewaySpec(limits=GatewayLimitsSpec(requests_per_minute=5, tokens_per_day=100))
    own = Caller(id="a", name="a", limits=CallerLimits(requests_per_minute=50))
    assert limits_of(own, spec) == CallerLimits(requests_per_minute=50, tokens_per_day=100)


def test_limits_are_of_each_caller_and_change_with_the_settings() -> None:
    admission = Admission(GatewaySpec(limits=GatewayLimitsSpec(requests_per_minute=1)))
    one, other = Caller(id="a", name="a"), Caller(id="b", name="b")
    enter(admission, one, used=0)
    enter(admission, other, used=0)
    with pytest.raises(ApiError):
        enter(admission, one)
    admission.reconfigure(GatewaySpec(limits=GatewayLimitsSpec(requests_per_minute=2)))
    enter(admission, one, used=0)


def test_what_is_counted_outlives_a_configuration_that_is_replaced_and_one_that_fails() -> None:
    async def scenario() -> None:
        shared = SharedAdmission(Metrics())
        stacks = [AsyncExitStack() for _ in range(3)]
        one, two = (GatewaySpec(limits=GatewayLimitsSpec(requests_per_minute=n)) for n in (1, 2))
        away = GatewaySpec(limits=GatewayLimitsSpec(store="redis", redis_url_env="URL"))
        admission = shared.admission(one, shared.open_store(one, {}, stacks[0]))
        await count(admission, Caller(id="a", name="a"))
        with pytest.raises(SlipstreamError, match="URL is not set"):
            shared.open_store(away, {}, stacks[1])
        shared.open_store(away, {"URL": "redis://127.0.0.1:1"}, stacks[1])
        await stacks[1].aclose()  # something else of that configuration failed
        assert shared.admission(two, shared.open_store(two, {}, stacks[2])) is admission
        await stacks[0].aclose()
        await count(admission, Caller(id="a", name="a"))
        with pytest.raises(ApiError):
            await count(admission, Caller(id="a", name="a"))

    asyncio.run(scenario())


def test_refusals_and_failures_of_the_store_are_counted_in_the_metrics() -> None:
    metrics = Metrics()
    MeteredAdmission(metrics).refused("small", Caller(id="a", name="a"), "queue_full")
    MeteredAdmission(metrics).store_failed("ConnectionError")
    page = metrics.page().decode()
    assert 'slipstream_gateway_refused_total{model="small",reason="queue_full"} 1.0' in page
    assert 'slipstream_gateway_limits_store_failures_total{error="ConnectionError"} 1.0' in page


def test_while_the_store_fails_each_process_counts_by_itself_if_that_is_allowed() -> None:
    events = Events()
    store = GuardedStore(BrokenStore(), on_failure="allow", on_event=lambda error: events.store_failed(str(error)))
    admission = Admission(GatewaySpec(limits=GatewayLimitsSpec(requests_per_minute=1)), store=store, watch=events)
    enter(admission, Caller(id="a", name="a"), used=0)
    with pytest.raises(ApiError, match="1 requests a minute"):
        enter(admission, Caller(id="a", name="a"))
    assert events.seen == ["ConnectionError", "small a requests_per_minute"]


def test_while_the_store_fails_nothing_is_let_in_if_that_is_wanted() -> None:
    events = Events()
    store = GuardedStore(BrokenStore(), on_failure="refuse")
    admission = Admission(GatewaySpec(limits=GatewayLimitsSpec(requests_per_minute=9)), store=store, watch=events)
    with pytest.raises(ApiError) as refused:
        enter(admission, Caller(id="a", name="a"))
    assert (refused.value.status, refused.value.headers) == (503, {"retry-after": "1"})
    assert events.seen == ["small a limits_unavailable"]


def test_a_store_that_fails_is_asked_once_a_second() -> None:
    clock, failures = Clock(), list[str]()
    guarded = GuardedStore(
        BrokenStore(), on_failure="allow", on_event=lambda error: failures.append(str(error)), clock=clock
    )
    demand = Demand(caller_id="a", limits=CallerLimits(requests_per_minute=99), tokens=1)
    for _ in range(10):
        for _ in range(5):
            asyncio.run(guarded.reserve(demand))
        clock.now_s += 0.5
    assert len(failures) == 5


@pytest.mark.parametrize(
    ("headers", "deadline"),
    [
        ({}, None),
        ({"x-request-deadline-ms": "1500"}, 101.5),
        ({"x-stainless-read-timeout": "600.0"}, 700),
        ({"x-request-deadline-ms": "1500", "x-stainless-read-timeout": "1"}, 101),
        ({"x-request-deadline-ms": "soon"}, None),
        ({"x-request-deadline-ms": "-5"}, None),
        ({"x-request-deadline-ms": "nan"}, None),
        ({"x-request-deadline-ms": "."}, None),
    ],
)
def test_a_deadline_is_the_earliest_that_the_headers_say(headers: dict[str, str], deadline: float | None) -> None:
    assert deadline_at(headers, 100.0) == deadline
