"""`/tokenize` and `/detokenize`, in the form that vLLM gave them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from slipstream.gateway.errors import ApiError
from slipstream.gateway.openai.messages import ChatMessage
from slipstream.gateway.openai.requests import Text
from slipstream.gateway.served_model import ServedModel


class TokenizeRequest(BaseModel):
    """A text or a conversation."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=256)
    prompt: Text | None = None
    messages: list[ChatMessage] | None = Field(None, max_length=4096)
    add_special_tokens: bool = True

    def answer(self, model: ServedModel) -> dict[str, object]:
        if (self.prompt is None) == (self.messages is None):
            raise ApiError(400, "prompt: send either prompt or messages", param="prompt")
        if self.messages is not None:
            ids = model.encode_chat([message.for_template() for message in self.messages])
        else:
            ids = model.tokenizer.encode(self.prompt or "", add_special_tokens=self.add_special_tokens)
        return {"count": len(ids), "max_model_len": model.context_tokens, "tokens": ids}


class DetokenizeRequest(BaseModel):
    """Token ids."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=256)
    tokens: list[int] = Field(max_length=1_000_000)

    def answer(self, model: ServedModel) -> dict[str, object]:
        model.check_ids(self.tokens, "tokens")
        return {"prompt": model.tokenizer.decode(self.tokens, skip_special_tokens=False)}
