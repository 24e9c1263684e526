"""`/v1/chat/completions`: messages and tools in, a message or calls out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError

from slipstream.client import Guide
from slipstream.gateway.errors import ApiError, unsupported
from slipstream.gateway.generation import Wanted
from slipstream.gateway.openai.messages import ChatMessage, check_messages
from slipstream.gateway.openai.requests import GenerationFields
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.tools.definitions import NamedTool, Tool, ToolChoice, call_guide
from slipstream.gateway.tools.forms import Conversation, ToolForm, ToolReading, conversation


def chat_request(fields: dict[str, Any]) -> ChatRequest:
    """The chat that a request of another API comes down to."""
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ApiError(400, f"{where}: {first['msg']}", param=where) from error


class ChatRequest(GenerationFields):
    """The body of `/v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=4096)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None

    def wanted(self, model: ServedModel, form: ToolForm | None) -> Wanted:
        """The generation to ask for; `ApiError` says what cannot be done. `form` is that of the model's calls."""
        self.refuse_unserved()
        self._refuse_unserved()
        check_messages(self.messages)
        self._check_tools(form)
        talk = self.conversation(model, form)
        ids = model.chat_prompt(talk.messages, talk.tools)
        room = model.room_for_output(ids)
        limit = self.max_completion_tokens or self.max_tokens or room
        return Wanted(
            prompt_ids=tuple(ids),
            max_tokens=min(limit, room),
            sampling=self.sampling(),
            stop=self.stops(),
            guide=self._guide(),
            log_probs=self.logprobs,
            ignores_end=self.ignore_eos,
        )

    def conversation(self, model: ServedModel, form: ToolForm | None) -> Conversation:
        """The messages and the tools as the model's chat template reads them."""
        messages = [message.for_template() for message in self.messages]
        return conversation(messages, [tool.for_template() for tool in self._offered()], form, model.template)

    def reading(self, form: ToolForm | None) -> ToolReading | None:
        """How the answer is to be read; none where no tool is offered."""
        offered = self._offered()
        if not offered or form is None:
            return None
        return ToolReading(
            form=form,
            names=frozenset(tool.function.name for tool in offered),
            is_forced=self._is_forced,
            is_single=self.parallel_tool_calls is False,
        )

    @property
    def _is_forced(self) -> bool:
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    def _offered(self) -> list[Tool]:
        """The tools that the model may call."""
        if self.tools is None or self.tool_choice == "none":
            return []
        if isinstance(self.tool_choice, NamedTool):
            return [tool for tool in self.tools if tool.function.name == self.tool_choice.function.name]
        return self.tools

    def _guide(self) -> Guide | None:
        if self._is_forced:
            return call_guide(self._offered())
        return None if self.response_format is None else self.response_format.guide()

    def _refuse_unserved(self) -> None:
        if self.top_logprobs:
            raise unsupported("top_logprobs", self.top_logprobs, "the engine gives those of the chosen tokens; send 0")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs: needs logprobs true", param="top_logprobs")

    def _check_tools(self, form: ToolForm | None) -> None:
        if not self.tools:
            given: dict[str, Any] = {"tool_choice": self.tool_choice, "parallel_tool_calls": self.parallel_tool_calls}
            wrong = next((name for name, value in given.items() if value not in (None, "none", "auto", True)), None)
            if wrong is not None:
                raise ApiError(400, f"{wrong}: there are no tools", param=wrong)
            return
        names = [tool.function.name for tool in self.tools]
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            found = self.tool_choice.function.name
            raise ApiError(400, f"tool_choice: {found!r} is none of the tools {', '.join(names)}", param="tool_choice")
        if not self._offered():
            return
        if form is None:
            raise unsupported("tools", names[0], "the model's chat template knows none; leave them out")
        if self.response_format is not None and self.response_format.type != "text" and not self._is_forced:
            raise unsupported(
                "response_format", self.response_format.type, "beside tools that may be called; set tool_choice"
            )
