"""`/v1/completions`: a text or token ids in, their continuation out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from pydantic import Field

from slipstream.gateway.errors import ApiError, unsupported
from slipstream.gateway.generation import Delta, Wanted
from slipstream.gateway.openai.answers import ChoicesAnswer
from slipstream.gateway.openai.requests import GenerationFields, Text
from slipstream.gateway.served_model import ServedModel

DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionRequest(GenerationFields):
    """The body of `/v1/completions`."""

    prompt: Text | list[Text] | list[int] | list[list[int]]
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=5)
    best_of: int | None = Field(None, ge=1, le=20)
    suffix: str | None = Field(None, max_length=100_000)

    def wanted(self, model: ServedModel) -> list[Wanted]:
        """The generations to ask for, one a prompt; `ApiError` says what cannot be done."""
        self.refuse_unserved()
        self._refuse_unserved()
        return [self._of(ids, model) for ids in self._prompts(model)]

    def _refuse_unserved(self) -> None:
        if self.echo and self.logprobs is not None:
            raise unsupported("echo", found=True, mend="with logprobs: the engine gives none of the prompt's")
        if self.logprobs:
            raise unsupported("logprobs", self.logprobs, "the engine gives those of the chosen tokens; send 0")
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise ApiError(400, f"best_of: {self.best_of} is less than n, {self.n}", param="best_of")
        if self.best_of is not None and self.best_of > (self.n or 1):
            raise unsupported("best_of", self.best_of, "nothing ranks the choices; send as many as n")
        if self.suffix:
            raise unsupported("suffix", self.suffix, "the model writes forward only; leave it out")

    def _prompts(self, model: ServedModel) -> list[list[int]]:
        prompt = self.prompt
        if isinstance(prompt, str):
            return [model.text_prompt(prompt)]
        if not prompt:
            raise ApiError(400, "prompt: is empty, a prompt needs at least one token", param="prompt")
        if isinstance(prompt[0], int):
            return [model.token_prompt([int(token) for token in prompt if isinstance(token, int)])]
        return [model.text_prompt(one) if isinstance(one, str) else model.token_prompt(_ids(one)) for one in prompt]

    def _of(self, ids: list[int], model: ServedModel) -> Wanted:
        return Wanted(
            prompt_ids=tuple(ids),
            max_tokens=min(self.max_tokens or DEFAULT_MAX_TOKENS, model.room_for_output(ids)),
            sampling=self.sampling(),
            stop=self.stops(),
            guide=None if self.response_format is None else self.response_format.guide(),
            log_probs=self.logprobs is not None,
            ignores_end=self.ignore_eos,
        )


class CompletionAnswer(ChoicesAnswer):
    """The answers to one request for completions."""

    prefix = "cmpl"
    whole_object = "text_completion"
    piece_object = "text_completion"

    def __init__(self, model: ServedModel, request: CompletionRequest, wanted: Sequence[Wanted]) -> None:
        super().__init__(model, wants_log_probs=request.logprobs is not None, include_usage=request.includes_usage)
        self._each = request.n or 1
        self._echoed = [model.tokenizer.decode(one.prompt_ids) for one in wanted] if request.echo else []

    def opening(self, index: int) -> dict[str, Any] | None:
        """The prompt, if it is to be echoed; there is no role to name."""
        return self._choice(index, self._echoed[index // self._each], []) if self._echoed else None

    def piece(self, index: int, delta: Delta) -> dict[str, Any]:
        return self._choice(index, delta.text, [delta])

    def choice(self, index: int, text: str, deltas: list[Delta]) -> dict[str, Any]:
        return self._choice(index, self._echoed[index // self._each] + text if self._echoed else text, deltas)

    def _choice(self, index: int, text: str, deltas: list[Delta]) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": self._log_probs(deltas) if self.wants_log_probs else None,
            "finish_reason": deltas[-1].finish if deltas else None,
        }

    def _log_probs(self, deltas: list[Delta]) -> dict[str, Any]:
        chosen = [token for delta in deltas for token in delta.log_probs]
        tokens = [self.model.tokenizer.decode([token.token_id], skip_special_tokens=False) for token in chosen]
        offsets = [0, *accumulate(len(token) for token in tokens)][: len(tokens)]
        return {
            "tokens": tokens,
            "token_logprobs": [token.log_prob for token in chosen],
            "top_logprobs": None,
            "text_offset": offsets,
        }


def _ids(value: object) -> list[int]:
    if isinstance(value, list) and all(isinstance(token, int) for token in value):
        return value
    raise ApiError(400, "prompt: holds texts and token ids mixed; send one kind", param="prompt")
