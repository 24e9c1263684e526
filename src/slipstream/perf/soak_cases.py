"""What a soak asks for: prompts whose whole answer is known, and requests that must be refused."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from slipstream.errors import SlipstreamError

TIMEOUT_S = 60.0  # an answer that takes longer hangs
_SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One prompt with its settings, for the models that take text."""

    name: str
    inputs: Mapping[str, object]

    @property
    def is_plain(self) -> bool:
        """Nothing but a prompt and a length: it can be asked for by token ids."""
        return set(self.inputs) == {"text_input", "max_tokens"}


CASES = (
    Case(name="short", inputs={"text_input": "The capital of France is", "max_tokens": 8}),
    Case(name="one token", inputs={"text_input": "Hello", "max_tokens": 1}),
    Case(name="long answer", inputs={"text_input": "Once upon a time", "max_tokens": 100}),
    Case(name="many bytes", inputs={"text_input": "👩‍👩‍👧 日本の首都は", "max_tokens": 30}),
    Case(name="long prompt", inputs={"text_input": "The fox runs over the hill. " * 100, "max_tokens": 10}),
    Case(name="stop words", inputs={"text_input": "Count: 1, 2, 3,", "max_tokens": 60, "stop_words": [" 7,", "\n\n"]}),
    Case(
        name="guided by a schema",
        inputs={
            "text_input": "Her age as JSON: ",
            "max_tokens": 20,
            "guided_decoding_guide_type": "json_schema",
            "guided_decoding_guide": json.dumps(_SCHEMA),
        },
    ),
    Case(
        name="guided by a pattern",
        inputs={
            "text_input": "A month: ",
            "max_tokens": 12,
            "guided_decoding_guide_type": "regex",
            "guided_decoding_guide": "[0-9]{4}-[0-9]{2}",
        },
    ),
)
# What must be refused, and words of the refusal.
BAD = (
    ({"text_input": "", "max_tokens": 4}, "text_input is empty"),
    ({"text_input": "a", "max_tokens": 0}, "max_tokens is 0"),
    ({"text_input": "a", "max_tokens": 4, "end_id": 10**6}, "end_id holds 1000000"),
    ({"text_input": "word " * 5000, "max_tokens": 4}, "the limit max_input_len"),
    ({"text_input": "a", "max_tokens": 4, "guided_decoding_guide_type": "regex", "guided_decoding_guide": "["}, "guid"),
)


def answer(address: str, model: str, inputs: Mapping[str, object]) -> str:
    """The whole text, in one response."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        connection.request("POST", f"/v2/models/{model}/generate", json.dumps({**inputs, "stream": False}))
        reply = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return _text_of(reply)


def events(address: str, model: str, inputs: Mapping[str, object]) -> Iterator[str]:
    """The text as server-sent events; a caller that goes away closes the connection."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        connection.request("POST", f"/v2/models/{model}/generate_stream", json.dumps({**inputs, "stream": True}))
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise SlipstreamError(response.read().decode(), mend="")
        for line in _lines(response):
            if line.startswith(b"data: "):
                yield _text_of(json.loads(line.removeprefix(b"data: ")))
    finally:
        connection.close()


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The lines of a chunked body; `HTTPException` when it breaks off, which the response's own iterator hides."""
    rest = b""
    while data := response.read1(65536):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def _text_of(reply: Mapping[str, object]) -> str:
    if "error" in reply:
        raise SlipstreamError(str(reply["error"]), mend="")
    return str(reply["text_output"])
