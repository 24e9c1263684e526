"""OpenAI's Responses API, over HTTP and a WebSocket, through a real gateway in front of a Triton that plays scripts."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from slipstream.gateway.responses.memory import ResponseMemory, StoredResponse
from slipstream.spec import GatewaySpec, ResponsesSpec
from tests.fakes.gateway import gateway, services_for
from tests.fakes.triton import FakeTriton, Script
from tests.unit.small_tokenizers import byte_level
from tests.unit.test_gateway_completions import post

ARGUMENTS = '{"city": "Oslo"}'
TEXT = f'Let me look. <tool_call>{{"name": "weather", "arguments": {ARGUMENTS}}}</tool_call>'
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


@pytest.fixture(scope="module")
def triton() -> Iterator[FakeTriton]:
    with FakeTriton({"tensorrt_llm": Script(pieces=[[token] for token in byte_level().encode(TEXT)])}) as server:
        yield server


@pytest.fixture(scope="module")
def base(triton: FakeTriton) -> Iterator[str]:
    with gateway(services_for(triton.address, GatewaySpec(tool_parser="hermes"))) as url:
        yield url


@pytest.fixture
def socket(base: str) -> Iterator[ClientConnection]:
    with connect(base.replace("http", "ws") + "/v1/responses") as connection:
        yield connection


def ask(base: str, **changes: Any) -> bytes:
    return post(f"{base}/v1/responses", {"model": "small", "input": "rain?", **changes})


def prompt_of(triton: FakeTriton) -> str:
    return byte_level().decode(triton.received[-1].inputs["input_ids"])


def events_of(socket: ClientConnection, **changes: Any) -> list[dict[str, Any]]:
    """All events of one response."""
    socket.send(json.dumps({"type": "response.create", "model": "small", "input": "rain?", **changes}))
    events = []
    while not events or events[-1]["type"] not in ("response.completed", "response.incomplete", "error"):
        events.append(json.loads(socket.recv(timeout=10)))
    return events


def test_a_response_is_a_list_of_items(base: str) -> None:
    response = json.loads(ask(base, tools=[TOOL]))
    message, call = response["output"]
    assert message["content"][0]["text"] == "Let me look."
    assert (call["name"], call["arguments"], call["status"]) == ("weather", ARGUMENTS, "completed")
    assert response["status"] == "completed"


def test_a_stream_names_every_step_in_order(base: str) -> None:
    events = [event.split("\n") for event in ask(base, tools=[TOOL], stream=True).decode().strip().split("\n\n")]
    contents = [json.loads(data.removeprefix("data: ")) for _, data in events]
    kinds = [content["type"] for content in contents]
    assert kinds == [name.removeprefix("event: ") for name, _ in events]
    assert [content["sequence_number"] for content in contents] == list(range(len(events)))
    assert list(dict.fromkeys(kinds)) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.completed",
    ]
    pieces = [content["delta"] for content in contents if content["type"].endswith("arguments.delta")]
    assert "".join(pieces) == ARGUMENTS
    assert contents[-1]["response"]["output"][1]["arguments"] == ARGUMENTS


def test_a_cut_response_is_incomplete(base: str) -> None:
    response = json.loads(ask(base, max_output_tokens=len(byte_level().encode(TEXT))))
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_a_response_is_continued_by_its_id_without_its_instructions(base: str, triton: FakeTriton) -> None:
    first = json.loads(ask(base, instructions="Be kind.", tools=[TOOL]))
    result = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "wet"}
    ask(base, previous_response_id=first["id"], input=[result])
    prompt = prompt_of(triton)
    assert prompt.index("rain?") < prompt.index("Let me look.") < prompt.index("wet")
    assert "Be kind." not in prompt


def test_what_is_not_stored_is_not_found(base: str) -> None:
    kept, lost = json.loads(ask(base)), json.loads(ask(base, store=False))
    assert json.loads(urllib.request.urlopen(f"{base}/v1/responses/{kept['id']}", timeout=5).read()) == kept
    for url in (f"{base}/v1/responses/{lost['id']}", f"{base}/v1/responses/resp_0"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url, timeout=5)
    delete = urllib.request.Request(f"{base}/v1/responses/{kept['id']}", method="DELETE")
    assert json.load(urllib.request.urlopen(delete, timeout=5))["deleted"] is True
    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask(base, previous_response_id=kept["id"])


@pytest.mark.parametrize(
    "changes",
    [
        {"background": True},
        {"truncation": "auto"},
        {"reasoning": {"effort": "high"}},
        {"tools": [{"type": "web_search"}]},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        {"conversation": "conv_1"},
    ],
)
def test_what_is_not_served_is_refused_by_name(base: str, changes: dict[str, Any]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(base, **changes)
    assert refused.value.code == 400
    assert json.load(refused.value)["error"]["param"].startswith(next(iter(changes)))


def test_a_socket_answers_one_request_after_the_other(socket: ClientConnection, triton: FakeTriton) -> None:
    first = events_of(socket, store=False)
    assert [first[0]["type"], first[-1]["type"]] == ["response.created", "response.completed"]
    events_of(socket, previous_response_id=first[-1]["response"]["id"], input="And tomorrow?")
    assert prompt_of(triton).index("rain?") < prompt_of(triton).index("And tomorrow?")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"previous_response_id": "resp_0"}, "previous_response_not_found"),
        ({"model": "gpt-9"}, "model_not_found"),
        ({"type": "response.cancel"}, None),
        ({"top_logprobs": 5}, "unsupported_value"),
    ],
)
def test_a_refusal_is_an_event_and_the_socket_stays(
    socket: ClientConnection, changes: dict[str, Any], code: str | None
) -> None:
    (error,) = events_of(socket, **changes)
    assert (error["type"], error["error"]["code"]) == ("error", code)
    assert events_of(socket)[-1]["type"] == "response.completed"


def test_what_is_no_json_is_refused_too(socket: ClientConnection) -> None:
    for text in ("{", "[" * 5000, b"\xff\x00"):
        socket.send(text)
        assert json.loads(socket.recv(timeout=10))["type"] == "error"


def test_a_client_that_leaves_ends_its_generation() -> None:
    with (
        FakeTriton({"tensorrt_llm": Script(pieces=[[65], [66]], hangs=True)}) as triton,
        gateway(services_for(triton.address)) as url,
    ):
        with connect(url.replace("http", "ws") + "/v1/responses") as socket:
            socket.send(json.dumps({"type": "response.create", "model": "small", "input": "rain?"}))
            while json.loads(socket.recv(timeout=10))["type"] != "response.output_text.delta":
                pass
        assert triton.wait_until_cancelled()


def test_the_memory_is_bounded_by_caller_in_all_and_in_time() -> None:
    now = [0.0]
    stored = StoredResponse(body=b"x" * 100, messages=[])
    spec = ResponsesSpec(stored_s=10, stored_bytes=500, stored_bytes_per_caller=300)
    memory = ResponseMemory(spec, clock=lambda: now[0])
    for number in range(4):
        memory.put("a", f"resp_{number}", stored)
    assert memory.get("a", "resp_0") is None, "the caller's oldest went"
    assert memory.get("a", "resp_3") is not None
    assert memory.get("b", "resp_3") is None, "it is another caller's"
    for number in range(3):
        memory.put("b", f"resp_{number}", stored)
    assert memory.get("a", "resp_1") is None, "in all there are 500 bytes"
    now[0] = 10.0
    assert memory.get("b", "resp_2") is None
