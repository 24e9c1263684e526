"""One name for three models, through a real gateway."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from slipstream.gateway.caller import Caller
from slipstream.gateway.security import Security
from slipstream.gateway.services import Models, Services
from slipstream.spec import ComplexitySpec, GatewaySpec
from tests.fakes.gateway import a_model, gateway, services_for
from tests.fakes.triton import FakeTriton, Script
from tests.unit.small_tokenizers import byte_level

SPEC = GatewaySpec(complexity=ComplexitySpec(small="s", medium="m", large="l"))
EASY = "Hi there!"
HARD = "Prove that there are infinitely many primes."


@pytest.fixture(scope="module")
def triton() -> Iterator[FakeTriton]:
    with FakeTriton({"tensorrt_llm": Script(pieces=[byte_level().encode("yes")])}) as triton:
        yield triton


def services(triton: FakeTriton, *names: str) -> Services:
    return Services(spec=SPEC, models=Models([a_model(triton.address, name=name) for name in names]))


@pytest.fixture(scope="module")
def base(triton: FakeTriton) -> Iterator[str]:
    with gateway(lambda: services(triton, "s", "m", "l")) as url:
        yield url


def ask(base: str, text: str, path: str = "/v1/chat/completions", **headers: str) -> tuple[dict[str, Any], Any]:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 50}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(
        base + path, json.dumps(body).encode(), {"content-type": "application/json"} | named
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer), answer.headers


def refusal(base: str, text: str, **headers: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(base, text, **headers)
    return refused.value.code, json.load(refused.value)["error"]


@pytest.mark.parametrize(("text", "model", "size"), [(EASY, "s", "small"), (HARD, "l", "large")])
def test_difficulty_chooses_the_model_and_the_answer_says_why(base: str, text: str, model: str, size: str) -> None:
    answer, headers = ask(base, text)
    assert answer["model"] == model
    assert headers["x-slipstream-model-class"] == size
    assert headers["x-slipstream-route"].startswith(f"{size}; model={model}; reason=")


def test_a_header_forces_the_class(base: str) -> None:
    answer, headers = ask(base, HARD, x_slipstream_model_class="medium")
    assert answer["model"] == "m"
    assert headers["x-slipstream-route"] == "medium; model=m; reason=forced"


def test_a_budget_moves_the_score(base: str) -> None:
    assert ask(base, HARD, x_slipstream_budget="low")[0]["model"] == "m"


@pytest.mark.parametrize("header", ["x_slipstream_model_class", "x_slipstream_budget"])
def test_a_header_that_says_something_else_is_refused(base: str, header: str) -> None:
    status, error = refusal(base, EASY, **{header: "huge"})
    assert status == 400
    assert error["param"] == header.replace("_", "-")


def test_a_prompt_that_is_too_long_for_the_small_model_goes_to_a_larger_one(triton: FakeTriton) -> None:
    def make() -> Services:
        small, large = a_model(triton.address, name="s"), a_model(triton.address, name="l")
        return Services(spec=SPEC, models=Models([replace(small, max_input_tokens=20), large]))

    with gateway(make) as url:
        assert ask(url, EASY, x_slipstream_model_class="small")[0]["model"] == "l"
        status, error = refusal(url, EASY * 500, x_slipstream_model_class="small")
    assert (status, error["code"]) == (400, "context_length_exceeded")


def test_a_model_that_is_not_served_is_replaced_by_the_next_larger_one(triton: FakeTriton) -> None:
    with gateway(lambda: services(triton, "s", "l")) as url:
        assert ask(url, HARD, x_slipstream_model_class="medium")[0]["model"] == "l"
    with gateway(lambda: services(triton, "s", "m")) as url:
        assert ask(url, HARD)[0]["model"] == "m"


def test_without_any_of_them_the_request_is_refused(triton: FakeTriton) -> None:
    with gateway(lambda: services(triton, "other")) as url:
        assert refusal(url, EASY)[1]["code"] == "model_not_found"


def test_only_models_that_the_caller_may_use_are_chosen(triton: FakeTriton) -> None:
    callers = {name: Caller(id=name, name=name, models=(name,)) for name in ("s", "other")}

    def make() -> Services:
        return replace(services(triton, "s", "l"), security=Security(finders=[callers.get]))

    with gateway(make) as url:
        assert ask(url, HARD, authorization="Bearer s")[0]["model"] == "s"
        assert refusal(url, EASY, authorization="Bearer other")[1]["code"] == "model_not_found"
        request = urllib.request.Request(f"{url}/v1/models", headers={"authorization": "Bearer other"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.load(answer)["data"] == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": HARD}),
        ("/v1/messages", {"messages": [{"role": "user", "content": HARD}], "max_tokens": 50}),
        ("/v1/responses", {"input": HARD}),
    ],
)
def test_every_api_may_ask_for_the_name(base: str, path: str, body: dict[str, Any]) -> None:
    sent = json.dumps({"model": "auto", **body}).encode()
    request = urllib.request.Request(base + path, sent, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer)["model"] == "l"
        assert answer.headers["x-slipstream-model-class"] == "large"


def test_the_reasons_are_told_without_generating(base: str, triton: FakeTriton) -> None:
    before = len(triton.received)
    told, _ = ask(base, HARD, path="/complexity")
    assert told["class"] == "large"
    assert told["model"] == "l"
    assert told["score"] == sum(term["points"] for term in told["terms"]) >= told["large_from"]
    assert len(triton.received) == before


def test_the_name_is_listed_among_the_models(base: str) -> None:
    with urllib.request.urlopen(f"{base}/v1/models", timeout=10) as answer:
        assert [model["id"] for model in json.load(answer)["data"]] == ["s", "m", "l", "auto"]
    with urllib.request.urlopen(f"{base}/v1/models/auto", timeout=10) as answer:
        assert json.load(answer)["id"] == "auto"


def test_decisions_are_counted(base: str) -> None:
    ask(base, EASY)
    with urllib.request.urlopen(f"{base}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    counted = 'slipstream_gateway_complexity_total{model="s",reason="judged",tier="small"}'
    assert any(line.startswith(counted) for line in lines)


def test_the_name_means_nothing_where_it_is_not_configured(triton: FakeTriton) -> None:
    with gateway(services_for(triton.address)) as url:
        assert refusal(url, EASY)[1]["code"] == "model_not_found"
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(url, EASY, path="/complexity")
    assert refused.value.code == 404
