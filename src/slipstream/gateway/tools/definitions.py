"""Tools as OpenAI's API defines them, and which of them the model may or must call."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slipstream.client import Guide
from slipstream.gateway.errors import ApiError
from slipstream.gateway.json_values import JsonObject

_NAME = r"^[a-zA-Z0-9_.-]{1,64}$"


class FunctionDefinition(BaseModel):
    """A function that the caller has."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=_NAME)
    description: str | None = Field(None, max_length=100_000)
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool; functions are the only kind here."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["function"] = "function"
    function: FunctionDefinition

    def for_template(self) -> dict[str, Any]:
        """As chat templates read it."""
        function = self.function
        return {
            "type": "function",
            "function": {
                "name": function.name,
                "description": function.description or "",
                "parameters": function.parameters or {"type": "object", "properties": {}},
            },
        }


class ChosenFunction(BaseModel):
    """The name of a function."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=_NAME)


class NamedTool(BaseModel):
    """The one tool that the model must call."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["function"] = "function"
    function: ChosenFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


def call_guide(tools: list[Tool]) -> Guide:
    """What holds the output to one call of one of `tools`: its whole text is the call's JSON."""
    definitions: dict[str, Any] = {}
    calls = [_call_schema(tool.function, f"tool{number}_", definitions) for number, tool in enumerate(tools)]
    schema: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return Guide(kind="json_schema", text=json.dumps(schema | ({"$defs": definitions} if definitions else {})))


def _call_schema(function: FunctionDefinition, prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    parameters = dict(function.parameters or {"type": "object", "properties": {}})
    for key in ("$defs", "definitions"):  # a reference counts from the root, so what it means has to move there
        inner = parameters.pop(key, None) or {}
        if not isinstance(inner, dict):
            raise ApiError(400, f"tools: {key} of {function.name} is no object", param="tools")
        for name, schema in inner.items():
            definitions[prefix + name] = _moved(schema, prefix)
    parameters.setdefault("type", "object")
    return {
        "type": "object",
        "properties": {"name": {"const": function.name}, "arguments": _moved(parameters, prefix)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, prefix: str) -> Any:
    """`schema` with its references to definitions turned to those at the root whose names begin with `prefix`."""
    if isinstance(schema, list):
        return [_moved(item, prefix) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, prefix) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        for start in ("#/$defs/", "#/definitions/"):
            if reference.startswith(start):
                moved["$ref"] = f"#/$defs/{prefix}{reference.removeprefix(start)}"
    return moved
