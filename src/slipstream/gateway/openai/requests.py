"""What clients of OpenAI's API send; a field that is unknown, or that nothing here can honour, is refused by name."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from slipstream.client import Guide, Sampling
from slipstream.gateway.errors import ApiError, unsupported
from slipstream.gateway.json_values import JsonObject, Labels

MOST_STOPS = 4  # OpenAI's limit
_LARGEST_SEED = 2**64

Text = Annotated[str, Field(max_length=4_000_000)]
Stops = Text | list[Text] | None


class StreamOptions(BaseModel):
    """What a stream holds beside the text."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool | None = None  # padding against eavesdroppers of lengths, of which there is none here


class JsonSchema(BaseModel):
    """A schema that the output must fit."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    name: str = Field(max_length=64)
    body: JsonObject = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """The form of the output."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def guide(self) -> Guide | None:
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Guide(kind="json")
        if self.json_schema is None:
            raise ApiError(400, "response_format.json_schema: is missing", param="response_format")
        return Guide(kind="json_schema", text=json.dumps(self.json_schema.body))


class GenerationFields(BaseModel):
    """What chat and plain completions have in common."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=256)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=2**31 - 1)  # not OpenAI's, but common
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stops = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=100)  # not OpenAI's
    min_tokens: int | None = Field(None, ge=0, le=2**31 - 1)  # not OpenAI's
    ignore_eos: bool = False  # not OpenAI's
    n: int | None = Field(None, ge=1, le=128)
    logit_bias: dict[str, float] | None = Field(None, max_length=300)
    response_format: ResponseFormat | None = None
    user: str | None = Field(None, max_length=512)
    metadata: Labels | None = Field(None, max_length=16)
    store: bool | None = None
    service_tier: str | None = Field(None, max_length=32)
    safety_identifier: str | None = Field(None, max_length=512)
    prompt_cache_key: str | None = Field(None, max_length=512)

    @property
    def includes_usage(self) -> bool:
        """A stream ends with the tokens it took."""
        return self.stream and self.stream_options is not None and self.stream_options.include_usage

    def stops(self) -> tuple[str, ...]:
        """Texts that end the output."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > MOST_STOPS:
            raise ApiError(400, f"stop: {len(stops)} sequences, the limit is {MOST_STOPS}", param="stop")
        return tuple(stop for stop in stops if stop)

    def sampling(self) -> Sampling:
        """OpenAI samples with temperature 1 unless told otherwise; 0 is greedy."""
        if self.temperature == 0:
            return self._penalized(Sampling(top_k=1))
        top_p = 1.0 if self.top_p is None else self.top_p
        if top_p == 0:
            return self._penalized(Sampling(top_k=1))
        return self._penalized(
            Sampling(
                temperature=1.0 if self.temperature is None else self.temperature,
                top_k=self.top_k,
                top_p=top_p,
                # The engine's own default is one fixed seed.
                seed=secrets.randbits(63) if self.seed is None else self.seed % _LARGEST_SEED,
            )
        )

    def refuse_unserved(self) -> None:
        """Raise `ApiError` for what the engine cannot do."""
        if self.logit_bias:
            raise unsupported("logit_bias", self.logit_bias, "the engine has no bias on logits; leave it out")
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options: is for streams; set stream to true", param="stream_options")
        if self.stream_options is not None and self.stream_options.include_obfuscation:
            raise unsupported("stream_options", "include_obfuscation", "nothing is padded here; send false")

    def _penalized(self, sampling: Sampling) -> Sampling:
        return replace(
            sampling,
            min_tokens=self.min_tokens,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
        )
