"""What goes into a request beside the prompt, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# TensorRT-LLM's models do not say why they ended, so it is inferred: "length" when `max_tokens` were generated, else
# "stop" (an end token, a stop word, or the end of the model's context). "cancelled": closed before the end.
Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen; None leaves a setting to the server, whose default is greedy."""

    temperature: float | None = None
    top_k: int | None = None  # 1 is greedy
    top_p: float | None = None
    seed: int | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    length_penalty: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """What the output must follow."""

    kind: Literal["json", "json_schema", "regex", "ebnf_grammar"]
    text: str = ""  # the schema, the expression or the grammar; `json` takes none


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One response of a stream: the tokens that were ready together."""

    text: str  # empty from a token model, and while a character is incomplete
    token_ids: tuple[int, ...]  # empty from a text model
    log_probs: tuple[float, ...]  # one each token id, where they were asked for
    output_tokens: int | None  # tokens in this chunk; None if the server does not count them
    at_ms: float  # since the request was sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A reply as far as it came, and how long it took."""

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    input_tokens: int | None  # None if the server does not count them
    output_tokens: int | None
    finish: Finish | None  # None while the stream is open, or where it cannot be inferred
    ttft_ms: float | None  # None if no token came
    total_ms: float  # to the last token
    tokens_per_s: float | None  # decoding speed: tokens after the first chunk over the time after it
