"""Answers that are kept: which, for whom, how long, and that nothing which changes an answer is left out of the key."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.client import Guide, Sampling
from slipstream.gateway.caching.responses import Kept, ResponseCache, _read, key_of
from slipstream.gateway.caching.stores import MemoryValues
from slipstream.gateway.caller import Caller
from slipstream.gateway.generation import Delta, TokenLogProb, Wanted
from slipstream.gateway.observability.metrics import Metrics
from slipstream.gateway.security import Security
from slipstream.gateway.services import Models, Services
from slipstream.spec import CacheSpec, GatewaySpec
from slipstream.spec_file import load_deployment
from slipstream.upstreams import gateway_config
from tests.fakes.gateway import a_model, gateway
from tests.fakes.triton import FakeTriton, Script
from tests.unit.small_tokenizers import byte_level

TEXT = "The quick brown fox"
PIECES = [[token] for token in byte_level().encode(TEXT)]


@contextmanager
def cached_gateway(
    script: Script | None = None, change: Callable[[Services], Services] = lambda made: made, **model: Any
) -> Iterator[tuple[str, FakeTriton]]:
    """A gateway with a cache in front of one model, whose digest is known."""
    with FakeTriton({"tensorrt_llm": script or Script(pieces=PIECES)}) as triton:

        def make() -> Services:
            known = {"digest": "d1", "is_deterministic": True} | model
            served = Models([replace(a_model(triton.address), **known)])
            return change(Services(spec=GatewaySpec(), models=served, cache=a_cache()))

        with gateway(make) as url:
            yield url, triton


def a_cache(**changes: Any) -> ResponseCache:
    spec = CacheSpec(**changes)
    return ResponseCache(spec, MemoryValues(max_bytes=spec.max_bytes, ttl_s=spec.ttl_s), Metrics())


def ask(
    base: str, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None, **changes: Any
) -> tuple[str, bytes]:
    """What `x-cache` says, and the answer."""
    body = {"model": "small", "temperature": 0, "max_tokens": 50, **changes}
    if path.endswith("chat/completions"):
        body = {"messages": [{"role": "user", "content": "fox?"}]} | body
    sent = {"content-type": "application/json"} | (headers or {})
    request = urllib.request.Request(base + path, json.dumps(body).encode(), sent)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["x-cache"], answer.read()


def without_id(answer: bytes) -> Any:
    return {name: value for name, value in json.loads(answer).items() if name not in {"id", "created"}}


def choices_of(events: bytes) -> list[Any]:
    lines = events.decode().strip().split("\n\n")
    return [json.loads(line.removeprefix("data: "))["choices"] for line in lines if line != "data: [DONE]"]


def test_the_second_answer_is_the_first_and_no_engine_is_asked() -> None:
    with cached_gateway() as (url, triton):
        first, second = ask(url, logprobs=True), ask(url, logprobs=True)
        assert len(triton.received) == 1
    assert (first[0], second[0]) == ("miss", "hit")
    assert without_id(first[1]) == without_id(second[1])
    assert json.loads(first[1])["id"] != json.loads(second[1])["id"]


def test_a_stream_is_served_from_a_whole_answer_and_the_other_way_round() -> None:
    with cached_gateway() as (url, triton):
        stream = ask(url, stream=True)
        whole, again = ask(url), ask(url, stream=True)
        assert len(triton.received) == 1
    assert (stream[0], whole[0], again[0]) == ("miss", "hit", "hit")
    assert choices_of(stream[1]) == choices_of(again[1])
    assert json.loads(whole[1])["choices"][0]["message"]["content"] == TEXT
    assert json.loads(whole[1])["usage"]["completion_tokens"] == len(PIECES)


def test_another_api_is_served_from_the_same_cache_where_the_tokens_are_the_same() -> None:
    with cached_gateway() as (url, triton):
        rendered = json.loads(
            ask_tokens(url, messages=[{"role": "user", "content": "fox?"}])
        )["tokens"]  # fmt: skip
        ask(url)
        result, answer = ask(url, path="/v1/completions", prompt=rendered)
        assert len(triton.received) == 1
    assert result == "hit"
    assert json.loads(answer)["choices"][0]["text"] == TEXT


def ask_tokens(base: str, **body: Any) -> bytes:
    data = json.dumps({"model": "small", **body}).encode()
    request = urllib.request.Request(f"{base}/tokenize", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        content: bytes = answer.read()
    return content


@pytest.mark.parametrize("change", [{"max_tokens": 49}, {"stop": "quick"}, {"logprobs": True}, {"presence_penalty": 1}])
def test_another_request_is_another_answer(change: dict[str, Any]) -> None:
    with cached_gateway() as (url, triton):
        ask(url)
        assert ask(url, **change)[0] == "miss"
        assert len(triton.received) == 2


@pytest.mark.parametrize(
    ("model", "change", "expected"),
    [
        ({}, {"temperature": 0.7}, "bypass"),  # each answer is another draw
        ({}, {"temperature": 0.7, "seed": 7}, "hit"),
        ({"is_deterministic": False}, {"temperature": 0.7, "seed": 7}, "bypass"),
        ({"is_deterministic": False}, {}, "hit"),  # greedy
        ({}, {"temperature": 0.7, "top_k": 1}, "bypass"),  # greedy, but with a seed that nobody named
        ({"digest": None}, {}, "bypass"),
        ({}, {"n": 2}, "hit"),
        ({}, {"n": 2, "temperature": 0.7, "seed": 7}, "hit"),
    ],
)
def test_only_what_can_be_answered_one_way_is_kept(
    model: dict[str, Any], change: dict[str, Any], expected: str
) -> None:
    with cached_gateway(**model) as (url, _):
        first, second = ask(url, **change)[0], ask(url, **change)[0]
    assert first == ("bypass" if expected == "bypass" else "miss")
    assert second == expected


def test_a_client_may_ask_for_a_fresh_answer_which_is_kept() -> None:
    with cached_gateway() as (url, triton):
        ask(url)
        assert ask(url, headers={"cache-control": "No-Cache"})[0] == "bypass"
        assert len(triton.received) == 2
        triton.models["tensorrt_llm"] = Script(pieces=[byte_level().encode("new")])
        ask(url, headers={"cache-control": "max-age=0, no-cache"})
        result, answer = ask(url)
    assert result == "hit"
    assert json.loads(answer)["choices"][0]["message"]["content"] == "new"


def test_a_client_may_leave_no_trace() -> None:
    with cached_gateway() as (url, _):
        assert ask(url, headers={"cache-control": "no-store"})[0] == "bypass"
        assert ask(url)[0] == "miss"
        assert ask(url, headers={"cache-control": "no-store"})[0] == "bypass"


@pytest.mark.parametrize(("is_shared", "expected"), [(False, "miss"), (True, "hit")])
def test_callers_do_not_see_each_others_answers_unless_told_to(is_shared: bool, expected: str) -> None:
    callers = {name: Caller(id=name, name=name) for name in ("a", "b")}

    def change(made: Services) -> Services:
        return replace(made, security=Security(finders=[callers.get]), cache=a_cache(shared=is_shared))

    with cached_gateway(change=change) as (url, _):
        ask(url, headers={"authorization": "Bearer a"})
        assert ask(url, headers={"authorization": "Bearer a"})[0] == "hit"
        assert ask(url, headers={"authorization": "Bearer b"})[0] == expected


def test_an_answer_that_broke_is_not_kept() -> None:
    broken = Script(pieces=PIECES[:2], error="out of memory")
    with cached_gateway(broken) as (url, triton):
        events = ask(url, stream=True)[1]
        assert b'"error"' in events
        triton.models["tensorrt_llm"] = Script(pieces=PIECES)
        assert ask(url)[0] == "miss"


def test_an_answer_whose_client_left_is_not_kept() -> None:
    with cached_gateway(Script(pieces=PIECES, delay_s=0.05)) as (url, triton):
        body = {"model": "small", "temperature": 0, "stream": True, "messages": [{"role": "user", "content": "fox?"}]}
        request = urllib.request.Request(
            f"{url}/v1/chat/completions",
            json.dumps(body | {"max_tokens": 50}).encode(),
            {"content-type": "application/json"},
        )
        answer = urllib.request.urlopen(request, timeout=10)
        answer.read(10)
        answer.close()
        assert triton.wait_until_cancelled()
        triton.models["tensorrt_llm"] = Script(pieces=PIECES)
        assert ask(url)[0] == "miss"


def test_a_long_answer_is_not_kept() -> None:
    long = Script(pieces=[[byte_level().encode("a")[0]]] * 600)
    with cached_gateway(long, change=lambda made: replace(made, cache=a_cache(max_answer_bytes=1024))) as (url, _):
        assert [ask(url, max_tokens=900)[0] for _ in range(2)] == ["miss", "miss"]


def page_with(url: str, line: str) -> str:
    """The page of metrics once it has `line`, or as it is after five seconds: a request counts after its last byte."""
    until = time.monotonic() + 5
    while True:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            page: str = answer.read().decode()
        if line in page or time.monotonic() > until:
            return page
        time.sleep(0.02)


def test_look_ups_are_counted_and_a_hit_is_nothing_that_an_engine_did() -> None:
    def change(made: Services) -> Services:
        spec = CacheSpec()
        store = MemoryValues(max_bytes=spec.max_bytes, ttl_s=spec.ttl_s)
        return replace(made, cache=ResponseCache(spec, store, made.metrics))

    with cached_gateway(change=change) as (url, _):
        ask(url), ask(url), ask(url), ask(url, temperature=1)
        success = 'vllm:request_success_total{engine="0",finished_reason="stop",model_name="small"} 2.0'
        page = page_with(url, success)
    for result, count in (("hit", 2.0), ("miss", 1.0), ("bypass", 1.0)):
        assert f'slipstream_gateway_cache_total{{cache="response",result="{result}"}} {count}' in page
    assert 'slipstream_gateway_cache_stores_total{cache="response"} 1.0' in page
    assert success in page


def test_without_a_cache_nothing_is_said_of_one() -> None:
    with cached_gateway(change=lambda made: replace(made, cache=None)) as (url, triton):
        assert [ask(url)[0] for _ in range(2)] == [None, None]
        assert len(triton.received) == 2


OTHER_VALUES: dict[str, Any] = {
    "prompt_ids": (1, 2, 4),
    "max_tokens": 51,
    "sampling": Sampling(top_k=1, min_tokens=2),
    "stop": ("x",),
    "guide": Guide(kind="json"),
    "log_probs": True,
    "ignores_end": True,
}
WANTED = Wanted(prompt_ids=(1, 2, 3), max_tokens=50, sampling=Sampling(top_k=1))


def key(wanted: Wanted, model: Any, scope: str | None = "a") -> str:
    return key_of(wanted, model, scope=scope)


class _Model:
    name, digest = "m", "d"


def test_every_field_of_what_is_wanted_is_in_the_key() -> None:
    model: Any = _Model()
    for field in fields(Wanted):
        changed = replace(WANTED, **{field.name: OTHER_VALUES[field.name]})
        assert key(changed, model) != key(WANTED, model), field.name
    for field in fields(Sampling):
        changed = replace(WANTED, sampling=replace(WANTED.sampling, **{field.name: 3}))
        assert key(changed, model) != key(WANTED, model), field.name


def test_the_model_its_engine_and_the_caller_are_in_the_key() -> None:
    model: Any = _Model()
    for name in ("name", "digest"):
        other: Any = _Model()
        setattr(other, name, "other")
        assert key(WANTED, other) != key(WANTED, model)
    assert len({key(WANTED, model, scope) for scope in ("a", "b", None)}) == 3


wanteds = st.builds(
    Wanted,
    prompt_ids=st.lists(st.integers(0, 99), max_size=4).map(tuple),
    max_tokens=st.integers(1, 4),
    sampling=st.builds(Sampling, top_k=st.just(1), seed=st.none() | st.integers(2**63, 2**64 - 1)),
    stop=st.lists(st.text(max_size=3), max_size=2).map(tuple),
    guide=st.none() | st.builds(Guide, kind=st.sampled_from(["json", "regex"]), text=st.text(max_size=3)),
    log_probs=st.booleans(),
)


@settings(max_examples=40)
@given(wanteds, wanteds)
def test_two_requests_have_one_key_only_if_they_are_one(one: Wanted, other: Wanted) -> None:
    model: Any = _Model()
    assert (key(one, model) == key(other, model)) == (one == other)


@settings(max_examples=40)
@given(
    st.builds(
        Kept,
        deltas=st.lists(
            st.builds(
                Delta,
                text=st.text(),
                tokens=st.integers(0, 9),
                log_probs=st.lists(st.builds(TokenLogProb, st.integers(0, 9), st.floats(-50, 0))).map(tuple),
                finish=st.sampled_from(["stop", "length", None]),
                stop=st.none() | st.text(max_size=3),
            ),
            max_size=3,
        ).map(tuple),
        output_tokens=st.integers(0, 99),
    )
)
def test_what_is_kept_is_read_back_as_it_was(kept: Kept) -> None:
    import orjson

    assert _read(orjson.dumps(kept)) == kept


def test_what_is_damaged_is_not_there() -> None:
    assert _read(b'{"deltas": [{"text": 1}]}') is None
    assert _read(b"\xff") is None


def test_memory_is_bounded_and_forgets() -> None:
    now = [0.0]
    store = MemoryValues(max_bytes=5000, ttl_s=10, clock=lambda: now[0])
    for number in range(20):
        store.put(str(number), b"x" * 600)
        assert store.held_bytes <= 5000
    assert asyncio.run(store.get(["0", "19"])) == [None, b"x" * 600]
    store.put("huge", b"x" * 6000)
    now[0] = 10.5
    assert asyncio.run(store.get(["19", "huge"])) == [None, None]
    assert store.held_bytes == 0


def test_a_deployments_digest_changes_with_what_decides_its_answers_and_with_nothing_else(
    root: Path, tmp_path: Path
) -> None:
    def digest(*changes: str) -> str | None:
        spec = load_deployment("smollm2-135m-cpu", changes, root=root)
        config = gateway_config(spec, root=tmp_path, model_dir=tmp_path / "model", port=1, own=None)
        return config.upstreams[0].digest

    before = digest()
    assert digest("runtime.execution=accuracy") != before
    assert digest("runtime.ports.grpc=9001") == before
    assert digest("gateway.request_timeout_s=5") == before
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "manifest.json").write_text('{"digest": "1"}')
    assert digest() != before


def test_redis_is_for_gateways_whose_limits_use_it() -> None:
    with pytest.raises(ValueError, match="it uses the server of limits"):
        GatewaySpec(cache=CacheSpec(store="redis"))
