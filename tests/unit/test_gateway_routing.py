"""Several backends as clients see them: headers, honest refusals, a stream that breaks, a model in another's place."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPResponse
from typing import Any

import pytest

from slipstream.gateway.services import Models, Services
from slipstream.spec import GatewaySpec, RoutingSpec
from tests.fakes.gateway import a_model, gateway
from tests.fakes.triton import FakeTriton, Script
from tests.unit.small_tokenizers import byte_level

NOWHERE = "127.0.0.1:1"
QUIET = RoutingSpec(probe_period_s=None, wait_s=0)


def a_triton(text: str = "fox", **changes: Any) -> FakeTriton:
    return FakeTriton({"tensorrt_llm": Script(pieces=[[token] for token in byte_level().encode(text)], **changes)})


def serving(fallbacks: Mapping[str, tuple[str, ...]] | None = None, **models: list[str]) -> Callable[[], Services]:
    spec = GatewaySpec(fallbacks=dict(fallbacks or {}))
    return lambda: Services(
        spec=spec, models=Models([a_model(where, name, routing=QUIET) for name, where in models.items()])
    )


def ask(base: str, *, model: str = "small", session: str | None = None, stream: bool = False) -> HTTPResponse:
    body = {"model": model, "prompt": "the quick brown", "max_tokens": 50, "stream": stream}
    headers = {"content-type": "application/json"} | ({} if session is None else {"x-session-id": session})
    request = urllib.request.Request(f"{base}/v1/completions", json.dumps(body).encode(), headers)
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=20)
    return answer


def test_the_answer_names_its_backend_and_not_where_it_is() -> None:
    with a_triton() as triton, gateway(serving(small=[NOWHERE, triton.address])) as base:
        for _ in range(3):
            answer = ask(base)
            assert answer.headers["x-slipstream-backend"] == "1"
            assert triton.address not in str(answer.headers)


@pytest.mark.parametrize("stream", [False, True])
def test_requests_of_one_session_go_to_one_backend(stream: bool) -> None:
    with a_triton() as one, a_triton() as two, gateway(serving(small=[one.address, two.address])) as base:
        names = []
        for _ in range(6):
            with ask(base, session="s", stream=stream) as answer:
                names.append(answer.headers["x-slipstream-backend"])
                answer.read()
        assert set(names) in ({"0"}, {"1"})


def test_no_backend_is_an_honest_503() -> None:
    with gateway(serving(small=[NOWHERE, "127.0.0.1:2"])) as base:
        for _ in range(3):
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(base)
            error = json.load(refused.value)["error"]
            assert (refused.value.code, error["code"]) == (503, "unavailable")
            assert int(refused.value.headers["retry-after"]) >= 1
            assert "127.0.0.1" not in error["message"]


def test_a_backend_killed_in_the_middle_of_a_stream_ends_it_with_an_error_event() -> None:
    with contextlib.ExitStack() as victims, a_triton() as other:
        victim = victims.enter_context(a_triton(hangs=True))
        with gateway(serving(small=[victim.address, other.address])) as base:
            with ask(base, stream=True) as answer:
                assert answer.readline().startswith(b"data: ")
                victims.close()
                events = answer.read().decode().strip().split("\n\n")
            error = json.loads(events[-1].removeprefix("data: "))["error"]
            assert (error["type"], error["code"]) == ("server_error", "unavailable")
            assert {ask(base).status for _ in range(4)} == {200}


def test_another_model_answers_while_all_backends_of_one_are_away() -> None:
    fallbacks = {"small": ("gone", "unknown", "large")}
    with a_triton() as triton:
        models = {"small": [NOWHERE], "gone": [NOWHERE], "large": [triton.address]}
        with gateway(serving(fallbacks, **models)) as base:
            for model in ("small", "gone"):  # only a request shows that they are away: nothing probes here
                with pytest.raises(urllib.error.HTTPError):
                    ask(base, model=model)
            answer = ask(base)
            assert answer.headers["x-slipstream-fallback"] == "large"
            assert json.load(answer)["model"] == "large"


def test_a_model_that_is_up_answers_itself() -> None:
    with a_triton() as triton:
        services = serving({"small": ("large",)}, small=[triton.address], large=[triton.address])
        with gateway(services) as base:
            answer = ask(base)
            assert "x-slipstream-fallback" not in answer.headers
            assert json.load(answer)["model"] == "small"


def test_the_metrics_page_shows_the_backends_and_why_they_were_chosen() -> None:
    with a_triton() as triton, gateway(serving(small=[NOWHERE, triton.address])) as base:
        ask(base).read()
        with urllib.request.urlopen(f"{base}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
    assert 'slipstream_gateway_backend_state{backend="0",model="small",state="away"} 1.0' in lines
    assert 'slipstream_gateway_backend_outstanding_tokens{backend="1",model="small"} 0.0' in lines
    assert 'slipstream_gateway_routed_total{backend="1",model="small",reason="only"} 1.0' in lines
    assert 'slipstream_gateway_retries_total{kind="retry",model="small"} 1.0' in lines


def test_a_fault_of_the_server_is_not_the_clients() -> None:
    died = "the engine's process died and is being restarted: send the request again"
    with a_triton("", error=died) as triton, gateway(serving(small=[triton.address])) as base:
        with pytest.raises(urllib.error.HTTPError) as failed:
            ask(base)
        assert failed.value.code == 503
        assert failed.value.headers["retry-after"]
