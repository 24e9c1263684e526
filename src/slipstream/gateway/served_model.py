"""A model behind the gateway: its name, its texts and tokens, its limits, and the way to its backends."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slipstream.gateway.errors import ApiError
from slipstream.gateway.queueing.capacity import UNKNOWN, Capacity
from slipstream.gateway.routing import Backends
from slipstream.text.chat_template import ChatTemplate
from slipstream.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What the APIs need to know of one deployment."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate | None  # none for a base model
    max_input_tokens: int
    context_tokens: int  # prompt and output together
    backends: Backends
    capacity: Capacity = UNKNOWN
    digest: str | None = None  # over everything that decides its answers; none: they are not kept
    is_deterministic: bool = False  # a seed gives the same tokens whatever else runs
    created: int = field(default_factory=lambda: int(time.time()))

    def chat_prompt(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Token ids of a conversation, up to where the assistant speaks; `ApiError` when it is too long."""
        return self._checked(self.encode_chat(messages, tools), "messages")

    def text_prompt(self, text: str) -> list[int]:
        """Token ids of a plain prompt, with the special tokens that the model's tokenizer adds."""
        return self._checked(self.tokenizer.encode(text), "prompt")

    def token_prompt(self, ids: Sequence[int]) -> list[int]:
        """A prompt that came as token ids."""
        self.check_ids(ids, "prompt")
        return self._checked(list(ids), "prompt")

    def room_for_output(self, prompt_ids: Sequence[int]) -> int:
        """Tokens that the context has left behind the prompt."""
        return self.context_tokens - len(prompt_ids)

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Token ids of a conversation of any length."""
        if self.template is None:
            raise ApiError(400, f"model: {self.name} has no chat template; use /v1/completions", param="model")
        return self.tokenizer.encode(self.template.render(messages, tools=tools), add_special_tokens=False)

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        """Raise `ApiError` for an id that the tokenizer does not have."""
        last = self.tokenizer.vocab_size - 1
        wrong = next((token for token in ids if not 0 <= token <= last), None)
        if wrong is not None:
            raise ApiError(400, f"{param}: {wrong} is no token id, they go from 0 to {last}", param=param)

    def _checked(self, ids: list[int], param: str) -> list[int]:
        limit = min(self.max_input_tokens, self.context_tokens - 1)
        if not ids:
            raise ApiError(400, f"{param}: is empty, a prompt needs at least one token", param=param)
        if len(ids) > limit:
            raise ApiError(
                400,
                f"{param}: {len(ids)} tokens, this model takes at most {limit}; shorten it by {len(ids) - limit}",
                param=param,
                code="context_length_exceeded",
            )
        return ids
