"""The clients of OpenAI's chat API, each behind the same two questions."""

from __future__ import annotations

import functools
import json
import operator
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from tests.integration.conformance.replies import Reply, from_chat, from_chunks

HERE = Path(__file__).parent


class RefusedError(Exception):
    """The client reports a refusal."""

    def __init__(self, status: int | None, message: str) -> None:
        super().__init__(message)
        self.status = status


class ChatClient(Protocol):
    """One client."""

    name: str
    version: str

    def ask(self, asked: dict[str, Any], *, stream: bool) -> Reply:
        """The answer; `RefusedError` when the client reports one."""


class OpenAiClient:
    """The official Python SDK."""

    name = "openai"

    def __init__(self, base: str, model: str) -> None:
        from openai import OpenAI

        self.version = version("openai")
        self._model = model
        self._client = OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)

    def ask(self, asked: dict[str, Any], *, stream: bool) -> Reply:
        from openai import APIStatusError

        fields = {"model": self._model, **asked}
        try:
            if not stream:
                return from_chat(self._client.chat.completions.create(**fields).model_dump())
            options = {"include_usage": True}
            chunks = self._client.chat.completions.create(stream=True, stream_options=options, **fields)
            return from_chunks([chunk.model_dump() for chunk in chunks])
        except APIStatusError as error:
            raise RefusedError(error.status_code, error.message) from error


class LangChainClient:
    """ChatOpenAI of langchain-openai."""

    name = "langchain"

    def __init__(self, base: str, model: str) -> None:
        self.version = version("langchain-openai")
        self._base, self._model = base, model

    def ask(self, asked: dict[str, Any], *, stream: bool) -> Reply:
        from langchain_openai import ChatOpenAI
        from openai import APIStatusError

        fields = dict(asked)
        client: Any = ChatOpenAI(
            base_url=f"{self._base}/v1",
            api_key="none",
            model=fields.pop("model", self._model),
            max_retries=0,
            stream_usage=True,
            extra_body=fields.pop("extra_body", None),
        )
        messages = fields.pop("messages")
        try:
            if not stream:
                return self._reply(client.invoke(messages, **fields), 0)
            parts = list(client.stream(messages, **fields))
            return self._reply(functools.reduce(operator.add, parts), len(parts))
        except APIStatusError as error:
            raise RefusedError(error.status_code, error.message) from error

    def _reply(self, message: Any, pieces: int) -> Reply:
        usage = message.usage_metadata or {}
        return Reply(
            texts=[message.text if isinstance(message.text, str) else message.text()],
            finish=message.response_metadata.get("finish_reason"),
            calls=[{"name": call["name"], "arguments": call["args"]} for call in message.tool_calls],
            input_tokens=usage.get("input_tokens"),
            output_tokens=usage.get("output_tokens"),
            log_probs=len((message.response_metadata.get("logprobs") or {}).get("content") or ()),
            pieces=pieces,
        )


class LiteLlmClient:
    """LiteLLM's client, in a process of its own environment."""

    name = "litellm"

    def __init__(self, python: Path, base: str, model: str) -> None:
        self._process = subprocess.Popen(
            [str(python), str(HERE / "litellm_worker.py"), base, model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PATH": "/usr/bin:/bin"},
        )
        self.version = self._read()["version"]

    def ask(self, asked: dict[str, Any], *, stream: bool) -> Reply:
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({**asked, **options}) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        if "reply" in answer:
            return Reply(**answer["reply"])
        raise RefusedError(answer["status"], answer["message"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise AssertionError("LiteLLM's process has ended")
