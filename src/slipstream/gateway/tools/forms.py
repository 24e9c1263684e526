"""The form in which a model writes calls, and how it is told of tools and their results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from slipstream.gateway.tools.parsers import HermesParser, JsonParser, ToolParser
from slipstream.text.chat_template import ChatTemplate

ToolForm = Literal["hermes", "llama3_json"]
ToolParserSetting = Literal["auto", "hermes", "llama3_json", "none"]

_HERMES = 'For each call write <tool_call>{{"name": NAME, "arguments": ARGUMENTS}}</tool_call>.'
_LLAMA = 'To call one, write nothing but {{"name": NAME, "parameters": ARGUMENTS}}.'
_INTRODUCTION = "You may call these functions:\n{functions}\n" + "{form} NAME is a string, ARGUMENTS a JSON object."


def tool_form(setting: ToolParserSetting, template: ChatTemplate | None) -> ToolForm | None:
    """The form of the model with `template`; none if it knows no tools and the setting names no form."""
    if setting == "none" or template is None:
        return None
    if setting != "auto":
        return setting
    if "<tool_call>" in template.source:
        return "hermes"
    is_llama = "tools" in template.source and "ipython" in template.source
    return "llama3_json" if is_llama else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReading:
    """How the answers to one request are read."""

    form: ToolForm
    names: frozenset[str]
    is_forced: bool  # a guide makes the call's JSON the whole text
    is_single: bool  # of several calls only the first counts

    def parser(self) -> ToolParser:
        """A parser for one answer."""
        if self.form == "hermes" and not self.is_forced:
            return HermesParser(self.names)
        return JsonParser(self.names)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the chat template is given."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None


def conversation(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    form: ToolForm | None,
    template: ChatTemplate | None,
) -> Conversation:
    """Messages and tools for `template`; one that does not know tools is told of them in plain messages."""
    if template is None or "tool" in template.source:
        return Conversation([_with_objects(message) for message in messages], [dict(tool) for tool in tools] or None)
    plain = [_in_words(message) for message in messages]
    return Conversation(_introduced(plain, tools, form) if tools else plain, None)


def _with_objects(message: Mapping[str, Any]) -> dict[str, Any]:
    """Templates write arguments as JSON themselves, so they are given the object and not its text."""
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    functions = [{**call["function"], "arguments": _object(call["function"]["arguments"])} for call in calls]
    return {
        **message,
        "tool_calls": [{**call, "function": function} for call, function in zip(calls, functions, strict=True)],
    }


def _object(arguments: str) -> object:
    try:
        return orjson.loads(arguments)  # and not what a template could not write again
    except ValueError:
        return arguments


def _in_words(message: Mapping[str, Any]) -> dict[str, Any]:
    role, content = message["role"], message.get("content") or ""
    if role == "tool":
        return {"role": "user", "content": f"<tool_response>{content}</tool_response>"}
    calls = [_written(call["function"]) for call in message.get("tool_calls") or ()]
    return {"role": role, "content": "\n".join([content, *calls] if content else calls or [""])}


def _written(function: Mapping[str, Any]) -> str:
    call = json.dumps({"name": function["name"], "arguments": _object(function["arguments"])}, ensure_ascii=False)
    return f"<tool_call>{call}</tool_call>"


def _introduced(
    messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]], form: ToolForm | None
) -> list[dict[str, Any]]:
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    how = (_LLAMA if form == "llama3_json" else _HERMES).format()
    text = _INTRODUCTION.format(functions=functions, form=how)
    if messages and messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
