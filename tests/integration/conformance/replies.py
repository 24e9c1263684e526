"""One form for what clients give back. It needs nothing but Python: LiteLLM's environment imports it too."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """An answer, whatever client brought it."""

    texts: list[str] = field(default_factory=list)  # one a choice
    finish: str | None = None  # of the first choice
    calls: list[dict[str, Any]] = field(default_factory=list)  # name and arguments, of the first choice
    input_tokens: int | None = None
    output_tokens: int | None = None
    log_probs: int = 0  # entries
    pieces: int = 0  # of a stream that held text or arguments

    @property
    def text(self) -> str:
        return self.texts[0] if self.texts else ""


def from_chat(body: dict[str, Any]) -> Reply:
    """A whole chat completion, as a dictionary."""
    first = body["choices"][0]
    usage = body.get("usage") or {}
    return Reply(
        texts=[choice["message"].get("content") or "" for choice in body["choices"]],
        finish=first["finish_reason"],
        calls=[_call(call["function"]) for call in first["message"].get("tool_calls") or ()],
        input_tokens=usage.get("prompt_tokens"),
        output_tokens=usage.get("completion_tokens"),
        log_probs=len(((first.get("logprobs") or {}).get("content")) or ()),
    )


def from_chunks(chunks: list[dict[str, Any]]) -> Reply:
    """The pieces of a streamed chat completion, as dictionaries."""
    reply = Reply()
    texts: dict[int, str] = {}
    calls: dict[int, dict[str, str]] = {}
    for chunk in chunks:
        if usage := chunk.get("usage"):
            reply.input_tokens, reply.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        for choice in chunk["choices"]:
            delta, index = choice["delta"], choice["index"]
            texts[index] = texts.get(index, "") + (delta.get("content") or "")
            reply.pieces += bool(delta.get("content")) + bool(delta.get("tool_calls"))
            reply.log_probs += len(((choice.get("logprobs") or {}).get("content")) or ())
            for call in delta.get("tool_calls") or ():
                made = calls.setdefault(call["index"], {"name": "", "arguments": ""})
                made["name"] += call["function"].get("name") or ""
                made["arguments"] += call["function"].get("arguments") or ""
            if index == 0 and choice.get("finish_reason"):
                reply.finish = choice["finish_reason"]
    reply.texts = [texts[index] for index in sorted(texts)]
    reply.calls = [_call(calls[index]) for index in sorted(calls)]
    return reply


def _call(function: dict[str, Any]) -> dict[str, Any]:
    return {"name": function["name"], "arguments": json.loads(function["arguments"])}
