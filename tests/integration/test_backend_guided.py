"""Guided decoding on a real tritonserver: texts follow their guide, and a guide that harms is refused alone."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from slipstream.text.tokenizer import Tokenizer
from tests.conftest import Served
from tests.integration.triton_calls import Stream, ask, prompt_of, text, token_ids, wait_for_active

ENGINE = "tensorrt_llm"
TEXT_MODELS = ("ensemble", "tensorrt_llm_bls")
PROMPT = "A person as JSON: "
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "maximum": 99, "minimum": 1},
    },
    "required": ["name", "age"],
}
# Guides that harm a pipeline which follows them unseen: each throws, or ends or stops its process.
POISON = [
    ("regex", "(a", "parenthesis is not closed"),
    ("ebnf_grammar", "root ::= foo", "foo"),
    ("ebnf_grammar", "root ::= " + "(" * 30000 + '"a"' + ")" * 30000, "exhausts the memory or the stack"),
    ("json_schema", '{"$ref": "#/nowhere"}', "nowhere"),
    ("json_schema", '{"type": "string", "pattern": "(a"}', "parenthesis is not closed"),
    ("json_schema", '{"type": "string", "maxLength": 1000000}', "takes too long, the limit is 1 s of the processor"),
    ("ebnf_grammar", 'root ::= s "!"\ns ::= s s s | s s | [a-z]', "takes too long, the limit is 1 s of the processor"),
]


def guided(kind: str, guide: str = "") -> dict[str, str]:
    return {"guided_decoding_guide_type": kind, **({"guided_decoding_guide": guide} if guide else {})}


def a_text(served: Served, model: str, guide: dict[str, str], **inputs: Any) -> str:
    wishes: dict[str, Any] = {"max_tokens": 60, "stream": True, **inputs}
    return text(ask(served, model, text_input=PROMPT, **wishes, **guide))


@pytest.fixture
def running(served: Served) -> Iterator[Stream]:
    """A plain stream that has begun."""
    stream = Stream(served)
    stream.start("ensemble", text_input="Count: 1, 2,", max_tokens=1500, stream=True, end_id=-1)
    stream.next()
    yield stream
    stream.close()
    wait_for_active(served, 0)


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_a_schema_is_followed_greedily_and_drawn(served: Served, model: str) -> None:
    for sampling in ({}, {"top_k": 40, "temperature": 1.3, "seed": 3}):
        person = json.loads(a_text(served, model, guided("json_schema", json.dumps(PERSON)), **sampling))
        assert set(person) == {"name", "age"}
        assert isinstance(person["name"], str)
        assert 1 <= person["age"] <= 99


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_a_regex_and_a_grammar_are_the_whole_text(served: Served, model: str) -> None:
    assert re.fullmatch(r"[0-9]{4}-[0-9]{2}", a_text(served, model, guided("regex", "[0-9]{4}-[0-9]{2}")))
    assert a_text(served, model, guided("ebnf_grammar", 'root ::= "maybe" | "never"')) in {"maybe", "never"}


def test_json_begins_as_an_object_or_a_list(served: Served) -> None:
    assert a_text(served, "ensemble", guided("json")).lstrip()[0] in "{["
    assert a_text(served, "ensemble", {}).lstrip()[0] not in "{[", "the model writes something else by itself"


def test_token_ids_are_guided_too(served: Served) -> None:
    tokenizer = Tokenizer.load(served.model_dir)
    prompt = prompt_of(tokenizer.encode(PROMPT), 20)
    responses = ask(
        served,
        ENGINE,
        **prompt,
        **guided("regex", "(ab)+c"),
        end_id=tokenizer.eos_ids[0],
        exclude_input_in_output=True,
        repetition_penalty=1.5,
    )
    assert re.match(r"(ab)*(a|(ab)c)?$", tokenizer.decode(token_ids(responses)))


def test_a_guide_excludes_bad_words_in_words(served: Served) -> None:
    with pytest.raises(Exception, match="the engine follows one grammar"):
        a_text(served, "ensemble", guided("json"), bad_words="Paris")


@pytest.mark.parametrize(("kind", "guide", "said"), POISON, ids=lambda value: value[:24])
def test_poison_is_refused_and_a_stream_that_runs_goes_on(
    served: Served, running: Stream, kind: str, guide: str, said: str
) -> None:
    poison = Stream(served)
    poison.start("ensemble", text_input=PROMPT, max_tokens=8, stream=True, **guided(kind, guide))
    pauses = [seconds_to_next(running) for _ in range(60)]
    with pytest.raises(Exception, match=said):
        poison.rest()
    poison.close()
    assert max(pauses) < 1.0
    assert running.next() is not None
    assert a_text(served, "ensemble", guided("regex", "[0-9]{3}")).isdigit(), "good guides are served as before"


def seconds_to_next(stream: Stream) -> float:
    begin_s = time.monotonic()
    assert stream.next() is not None
    return time.monotonic() - begin_s


def test_a_stop_reaches_a_request_whose_guide_still_waits(served: Served) -> None:
    tokenizer = Tokenizer.load(served.model_dir)
    request = {**prompt_of(tokenizer.encode(PROMPT), 60), "streaming": True, "end_id": tokenizer.eos_ids[0]}
    stream = Stream(served)  # one for all three: Triton keeps the order of a stream
    stream.start(ENGINE, **request, **guided("json_schema", '{"type": "string", "maxLength": 1000001}'))
    stream.start(ENGINE, request_id="81", **request, **guided("regex", "[a-z]{40}"))
    stream.start(ENGINE, request_id="81", stop=True, **prompt_of([1], 1))
    assert token_ids(stream.rest()) == [], "the stop is answered at once"
    with pytest.raises(Exception, match="takes too long"):
        stream.rest()
    stopped = tokenizer.decode(token_ids(stream.rest()))
    stream.close()
    assert stopped == "", "the stop was there before its guide was tried"
