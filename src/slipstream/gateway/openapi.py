"""The OpenAPI description: what FastAPI finds out by itself, with the answers as they really are."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_REFUSALS = {
    "400": "the request cannot be understood or served; `param` names the field",
    "401": "a key is missing or wrong",
    "403": "the key may not do this",
    "404": "there is no such model or response",
    "413": "the body is too long",
    "429": "over a limit, or the queue is full: try later",
    "503": "no backend answers: try again",
    "504": "the answer was not complete in time",
}
_NOT_SERVED = {"/v1/embeddings": {"501": "no model here makes embeddings"}}
_TEXT_OR_NONE = {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _TEXT_OR_NONE,
                "code": _TEXT_OR_NONE,
            },
        }
    },
}
_ANTHROPIC_ERROR = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": "string"},
    },
}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


_COUNT = {"type": "integer", "minimum": 0}
_LIST = {"type": "array", "items": {"type": "object"}}
_EVENT = {
    "type": "object",
    "description": "each server-sent event, where `stream` is true; its data is JSON, but for a last [DONE]",
    "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
_USAGE = _object(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT)
_TEXT = {"type": "string"}
_ANSWERS = {
    "/v1/chat/completions": _object(
        id=_TEXT, object={"const": "chat.completion"}, created=_COUNT, model=_TEXT, choices=_LIST, usage=_USAGE
    ),
    "/v1/completions": _object(
        id=_TEXT, object={"const": "text_completion"}, created=_COUNT, model=_TEXT, choices=_LIST, usage=_USAGE
    ),
    "/v1/responses": _object(
        id=_TEXT,
        object={"const": "response"},
        created_at=_COUNT,
        status={"enum": ["completed", "incomplete"]},
        model=_TEXT,
        output=_LIST,
        usage=_object(input_tokens=_COUNT, output_tokens=_COUNT, total_tokens=_COUNT),
    ),
    "/v1/messages": _object(
        id=_TEXT,
        type={"const": "message"},
        role={"const": "assistant"},
        model=_TEXT,
        content=_LIST,
        stop_reason={"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"]},
        stop_sequence=_TEXT_OR_NONE,
        usage=_object(input_tokens=_COUNT, output_tokens=_COUNT),
    ),
}


def describe(app: FastAPI) -> None:
    """Let `app` describe the bodies, the streams and the refusals of its endpoints."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _corrected(get_openapi(title=app.title, version=app.version, routes=app.routes))
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _corrected(schema: dict[str, Any]) -> dict[str, Any]:
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which are never sent
        schemas.pop(unused, None)
    schemas |= {"Refusal": _ERROR, "AnthropicRefusal": _ANTHROPIC_ERROR}
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if path.startswith(("/v1/", "/tokenize", "/detokenize")):
                _correct(path, operation["responses"], is_post="requestBody" in operation)
    return schema


def _correct(path: str, responses: dict[str, Any], *, is_post: bool) -> None:
    responses.pop("422", None)
    if is_post and (body := _ANSWERS.get(path)) is not None:
        content = {"application/json": {"schema": body}, "text/event-stream": {"schema": _EVENT}}
        responses["200"] = {"description": "the answer, whole or as events", "content": content}
    name = "AnthropicRefusal" if path.startswith("/v1/messages") else "Refusal"
    refusal = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    for status, why in (_REFUSALS | _NOT_SERVED.get(path, {})).items():
        responses[status] = {"description": why, "content": refusal}
