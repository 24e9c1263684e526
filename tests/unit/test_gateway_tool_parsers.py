"""Calls of tools are found in text however it is cut, and text that is no call is not lost."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.gateway.tools.parsers import Arguments, CallBegun, HermesParser, JsonParser, Piece, Text, ToolParser

NAMES = frozenset({"weather", "f"})
WEATHER = '{"name": "weather", "arguments": {"city": "Paris \\"é}", "days": [1, {"a": "]"}]}}'
FRAGMENTS = [
    "<tool_call>",
    "</tool_call>",
    "<tool",
    "_call>",
    "\n",
    " ",
    ";",
    "{",
    "}",
    '"',
    "\\",
    ":",
    ",",
    "name",
    "arguments",
    '{"name": "f", "arguments": {}}',
    '{"name": "f", "parameters": {"a": [1, "}"]}}',
    '{"arguments": {"x": 1}, "name": "f"}',
    '{"name": "unknown", "arguments": {}}',
    '{"name": "f", "arguments": "{\\"a\\": 2}"}',
    '{"name": "f", "arguments": null}',
    '{"name": "f", "arguments": {"a": ',
    '{"name": 3}',
    "[1]",
    "true",
    "hello",
    "<|python_tag|>",
    "é",
    WEATHER,
]
CALLS = [piece for piece in FRAGMENTS if piece.startswith("{") and len(piece) > 12]
TEXTS = st.lists(
    st.sampled_from(FRAGMENTS)
    | st.sampled_from(CALLS)
    | st.sampled_from(CALLS).map("<tool_call>{}".format)
    | st.sampled_from(CALLS).map("<tool_call>\n{}\n</tool_call>".format)
    | st.text(max_size=4),
    max_size=8,
).map("".join)
PARSERS = pytest.mark.parametrize("parser", [HermesParser, JsonParser])


def read(parser: type[ToolParser], pieces: list[str]) -> list[Piece]:
    """All that one parser makes of `pieces`, neighbours joined."""
    reader = parser(NAMES)
    found = [piece for text in pieces for piece in reader.push(text)] + reader.finish()
    joined: list[Piece] = []
    for piece in found:
        if joined and isinstance(piece, Text | Arguments) and type(joined[-1]) is type(piece):
            joined[-1] = type(piece)(joined[-1].text + piece.text)
        else:
            joined.append(piece)
    return joined


@PARSERS
@given(text=TEXTS, data=st.data())
def test_how_text_is_cut_changes_nothing(parser: type[ToolParser], text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=20)) | {0, len(text)})
    once = read(parser, [text])
    assert read(parser, [text[a:b] for a, b in itertools.pairwise(cuts)]) == once
    assert read(parser, list(text)) == once


@PARSERS
@given(text=TEXTS)
def test_text_without_a_call_comes_out_as_it_went_in(parser: type[ToolParser], text: str) -> None:
    pieces = read(parser, [text])
    if not any(isinstance(piece, CallBegun) for piece in pieces):
        assert "".join(piece.text for piece in pieces if isinstance(piece, Text)) == text


@PARSERS
@given(before=st.sampled_from(["", "Let me see.\n"]), after=st.sampled_from(["", " Done.", "<b>"]))
def test_what_stands_around_calls_is_kept(parser: type[ToolParser], before: str, after: str) -> None:
    calls = [WEATHER, '{"name": "f", "parameters": {}}']
    if parser is HermesParser:
        text = before + "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls) + after
    else:
        before, text = "", "; ".join(calls) + after
    pieces = read(parser, [text])
    assert [piece.name for piece in pieces if isinstance(piece, CallBegun)] == ["weather", "f"]
    assert "".join(piece.text for piece in pieces if isinstance(piece, Text)) == before.rstrip() + after


def test_arguments_go_out_while_they_are_written() -> None:
    reader = HermesParser(NAMES)
    assert reader.push('<tool_call>{"name": "weather", ') == []
    assert reader.push('"arguments": {"city": "Pa') == [CallBegun("weather"), Arguments('{"city": "Pa')]
    assert reader.push('ris"}') == [Arguments('ris"}')]
    assert reader.push("}</tool_call>") == []


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (WEATHER, {"city": 'Paris "é}', "days": [1, {"a": "]"}]}),
        ('{"arguments": {"x": 1}, "name": "f"}', {"x": 1}),
        ('{"name": "f", "arguments": "{\\"a\\": 2}"}', {"a": 2}),
        ('{"name": "f", "arguments": null}', {}),
        ('{"id": 7, "name": "f", "arguments": {"a": -1.5e3}, "type": "function"}', {"a": -1500.0}),
    ],
)
def test_calls_are_read_in_the_ways_that_models_write_them(call: str, arguments: object) -> None:
    pieces = read(HermesParser, [f"<tool_call>{call}</tool_call>"])
    assert [type(piece) for piece in pieces] == [CallBegun, Arguments]
    assert json.loads(pieces[1].text) == arguments  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "\\ud800{"}</tool_call>',
        "<tool_call>nothing</tool_call>",
        "an unfinished <tool_ca",
        '<tool_call>{"name": "f", ',
    ],
)
def test_what_only_looks_like_a_call_is_text(text: str) -> None:
    assert read(HermesParser, [text]) == [Text(text)]
