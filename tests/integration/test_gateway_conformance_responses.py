"""The official OpenAI SDK against the Responses API, plain completions and models of the gateway."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
from openai import APIStatusError, NotFoundError, OpenAI

from tests.conftest import DEFAULT, Served
from tests.integration.conformance.responses_rows import COMPLETIONS_REFUSED, REFUSED, SERVED, ResponsesRow
from tests.integration.conformance.server import conformance_gateway


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[OpenAI]:
    with conformance_gateway(served) as base:
        yield OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)


@pytest.fixture(autouse=True)
def named(record_property: Callable[[str, object], None]) -> None:
    record_property("client", f"openai {version('openai')}")


def fields_of(row: ResponsesRow) -> dict[str, Any]:
    fields = {"model": DEFAULT, "input": "Say hello.", "temperature": 0, **row.asked}
    return fields if "max_output_tokens" in fields else {**fields, "max_output_tokens": 8}


def ask(client: OpenAI, fields: dict[str, Any], *, stream: bool) -> Any:
    if not stream:
        return client.responses.create(**fields)
    events: list[Any] = list(client.responses.create(stream=True, **fields))
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    pieces = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert pieces == events[-1].response.output_text
    return events[-1].response


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("row", SERVED, ids=lambda row: row.name)
def test_a_response_is_served(client: OpenAI, row: ResponsesRow, stream: bool) -> None:
    response = ask(client, fields_of(row), stream=stream)
    assert response.status in {"completed", "incomplete"}
    row.judge(response)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_a_response_is_refused(
    client: OpenAI, row: ResponsesRow, stream: bool, record_property: Callable[[str, object], None]
) -> None:
    record_property("deviation", ("/v1/responses", row.name, row.deviation))
    with pytest.raises(APIStatusError, match=row.said) as refused:
        ask(client, fields_of(row), stream=stream)
    assert refused.value.status_code == row.status


def test_a_response_is_continued_fetched_and_deleted(client: OpenAI) -> None:
    first = client.responses.create(model=DEFAULT, input="Say hello.", max_output_tokens=8)
    second = client.responses.create(model=DEFAULT, input="Again.", max_output_tokens=8, previous_response_id=first.id)
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.total_tokens
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(first.id)


def test_the_sdks_own_socket_brings_the_same_events(client: OpenAI) -> None:
    with client.responses.connect() as connection:
        connection.response.create(model=DEFAULT, input="Say hello.", max_output_tokens=8)
        kinds = []
        for event in connection:
            kinds.append(event.type)
            if event.type in ("response.completed", "response.incomplete", "error"):
                break
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": "The capital of France is"},
        {"prompt": ["One, two,", "A, b,"]},
        {"prompt": [504, 3575, 282]},
        {"prompt": "One, two,", "n": 2, "best_of": 2, "temperature": 1},
        {"prompt": "One, two,", "stop": ","},
        {"prompt": "One, two,", "logprobs": 0},
        {"prompt": "One, two,", "echo": True},
    ],
    ids=["a text", "texts", "token ids", "choices", "a stop", "log-probabilities", "echo"],
)
def test_a_completion_is_served(client: OpenAI, asked: dict[str, Any], stream: bool) -> None:
    fields = {"model": DEFAULT, "max_tokens": 6, "temperature": 0, **asked}
    if stream:
        pieces: list[Any] = list(client.completions.create(stream=True, **fields))
        texts: dict[int, str] = {}
        for piece in pieces:
            for choice in piece.choices:
                texts[choice.index] = texts.get(choice.index, "") + choice.text
    else:
        texts = {choice.index: choice.text for choice in client.completions.create(**fields).choices}
    prompts = len(asked["prompt"]) if isinstance(asked["prompt"], list) and isinstance(asked["prompt"][0], str) else 1
    assert sorted(texts) == list(range(prompts * asked.get("n", 1)))
    assert not asked.get("echo") or texts[0].startswith("One, two,")


@pytest.mark.parametrize("row", COMPLETIONS_REFUSED, ids=lambda row: row.name)
def test_a_completion_is_refused(
    client: OpenAI, row: ResponsesRow, record_property: Callable[[str, object], None]
) -> None:
    record_property("deviation", ("/v1/completions", row.name, row.deviation))
    with pytest.raises(APIStatusError, match=row.said) as refused:
        client.completions.create(**{"model": DEFAULT, "prompt": "One,", "max_tokens": 4, **row.asked})
    assert refused.value.status_code == row.status


def test_models_are_listed_and_found(client: OpenAI) -> None:
    assert DEFAULT in [model.id for model in client.models.list()]
    assert client.models.retrieve(DEFAULT).object == "model"
    with pytest.raises(NotFoundError):
        client.models.retrieve("gpt-9")


def test_a_parsed_answer_fits_its_class(client: OpenAI) -> None:
    from pydantic import BaseModel

    class Answer(BaseModel):
        is_true: bool

    answer = client.chat.completions.parse(
        model=DEFAULT,
        messages=[{"role": "user", "content": "Is water wet?"}],
        response_format=Answer,
        max_completion_tokens=30,
    )
    assert isinstance(answer.choices[0].message.parsed, Answer)
    assert json.loads(answer.choices[0].message.content or "").keys() == {"is_true"}
