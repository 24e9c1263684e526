"""Guided decoding: what a text must look like, from `guided_decoding_guide_type` and `guided_decoding_guide`.

The types are those that TensorRT-LLM's backend for Triton knows (its `utils.cc`): json, json_schema, regex and
ebnf_grammar. There another type, and a guide without a type, is dropped without a word; here both are refused, and so
is a guide beside `json`, which needs none. Both servers have the same compiler of grammars, XGrammar.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from slipstream.backend.tensors import RequestRefusedError, Tensors, is_given, text

TYPE = "guided_decoding_guide_type"
GUIDE = "guided_decoding_guide"
KINDS = ("json", "json_schema", "regex", "ebnf_grammar")

_MOST_CHARACTERS = 65536
# What XGrammar's own grammar for `json` takes: an object or a list of anything.
_ANY_JSON = '{"anyOf": [{"type": "object", "additionalProperties": true}, {"type": "array", "items": {}}]}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """What the whole text must be."""

    kind: str  # one of `KINDS`
    text: str  # empty with `json`


def read_guide(tensors: Tensors) -> Guide | None:
    """The guide that the request gives, not yet compiled; none if it gives no type and no guide."""
    kind, guide = _only_text(tensors, TYPE), _only_text(tensors, GUIDE)
    if not kind and not guide:
        return None
    if kind not in KINDS:
        found = f"is {kind[:40]!r}" if kind else "is missing"
        raise RequestRefusedError(f"{TYPE} {found}, the types are {', '.join(KINDS)}")
    if kind == "json":
        if guide:
            raise RequestRefusedError(f"{GUIDE} is given, but the type json takes none; for a schema send json_schema")
    elif not guide:
        raise RequestRefusedError(f"{GUIDE} is missing or empty: the type {kind} needs one")
    if len(guide) > _MOST_CHARACTERS:
        raise RequestRefusedError(f"{GUIDE} has {len(guide)} characters, the limit is {_MOST_CHARACTERS}")
    if kind == "json_schema":
        _check_schema(guide)
    return Guide(kind=kind, text=guide)


def structured_output(guide: Guide) -> Any:
    """The guide as OpenVINO GenAI takes it."""
    from openvino_genai import StructuredOutputConfig

    if guide.kind == "regex":
        return StructuredOutputConfig(regex=guide.text)
    if guide.kind == "ebnf_grammar":
        return StructuredOutputConfig(grammar=guide.text)
    return StructuredOutputConfig(json_schema=guide.text or _ANY_JSON)


def _only_text(tensors: Tensors, name: str) -> str:
    if not is_given(tensors, name):
        return ""
    values = tensors[name].reshape(-1)
    if values.size != 1:
        raise RequestRefusedError(f"{name} has {values.size} elements, it takes one: send requests one by one")
    return text(values[0], name)


def _check_schema(schema: str) -> None:
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise RequestRefusedError(f"{GUIDE} is no JSON, as json_schema must be: {error}") from error
    if not isinstance(parsed, dict | bool):
        raise RequestRefusedError(f"{GUIDE} is JSON, but no schema: it must be an object")
