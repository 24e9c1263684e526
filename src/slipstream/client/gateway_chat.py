"""One question to a gateway in a terminal: OpenAI's chat completions, streamed, by the standard library alone."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from slipstream.client.terminal import show_summary, write_text
from slipstream.client.values import Completion
from slipstream.errors import SlipstreamError
from slipstream.text.chat_template import Message

_TIMEOUT_S = 120.0


class KeyNeededError(SlipstreamError):
    """The gateway asks for an API key."""


@dataclass(slots=True)
class _Clock:
    """When the tokens of one answer came."""

    started: float
    first: float | None = None
    last: float | None = None

    def tick(self) -> None:
        self.last = time.monotonic()
        self.first = self.first or self.last


def ask_gateway(url: str, model: str, messages: Sequence[Message], max_tokens: int, out: TextIO) -> None:
    """Stream the answer into `out` as it comes, then one line with tokens, TTFT and speed."""
    body = {
        "model": model,
        "messages": list(messages),
        "max_completion_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    clock, text, finish = _Clock(time.monotonic()), [], None
    usage: dict[str, int] = {}
    for event in _events(url, body):
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            finish = choice["finish_reason"] or finish
            if piece := choice["delta"].get("content"):
                clock.tick()
                text.append(piece)
                write_text(out, piece)
    show_summary(_completion("".join(text), clock, usage.get("completion_tokens"), finish), out)


def _completion(text: str, clock: _Clock, tokens: int | None, finish: str | None) -> Completion:
    first, last = clock.first or clock.started, clock.last or clock.started
    return Completion(
        request_id="",
        text=text,
        token_ids=(),
        input_tokens=None,
        output_tokens=tokens,
        finish="length" if finish == "length" else "stop",
        ttft_ms=(first - clock.started) * 1000 if clock.first else None,
        total_ms=(last - clock.started) * 1000,
        tokens_per_s=(tokens - 1) / (last - first) if tokens and last > first else None,
    )


def _events(url: str, body: object) -> Iterator[dict[str, Any]]:
    where = urllib.parse.urlsplit(url)
    connection = _connection(where)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", f"{where.path}/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise _refusal(url, answer)
        for line in answer:
            if line.startswith(b"data: [DONE]"):
                return
            if line.startswith(b"data: "):
                yield _event(url, json.loads(line.removeprefix(b"data: ")))
        raise OSError("the answer broke off")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SlipstreamError(
            f"{url}: the gateway does not answer as it should ({error})", mend="look into its log: run/gateway.log"
        ) from error
    finally:
        connection.close()


def _connection(where: urllib.parse.SplitResult) -> http.client.HTTPConnection:
    if where.scheme == "http":
        return http.client.HTTPConnection(where.netloc, timeout=_TIMEOUT_S)
    context = ssl.create_default_context()
    # On this machine's own gateway, whose certificate names the host that clients see.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(where.netloc, timeout=_TIMEOUT_S, context=context)


def _event(url: str, event: dict[str, Any]) -> dict[str, Any]:
    if "error" in event:
        raise SlipstreamError(f"{url}: the answer broke off: {event['error'].get('message')}", mend="ask again")
    return event


def _refusal(url: str, answer: http.client.HTTPResponse) -> SlipstreamError:
    try:
        message = json.loads(answer.read(1 << 16))["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = answer.reason
    kind = KeyNeededError if answer.status == http.client.UNAUTHORIZED else SlipstreamError
    return kind(f"{url}: refused with {answer.status}: {message}", mend="correct what it objects to")
