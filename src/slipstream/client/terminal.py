"""Talk to a served model in a terminal: one question, or a conversation that remembers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from slipstream.client.blocking import Stream, TritonClient
from slipstream.client.values import Completion, Sampling
from slipstream.errors import SlipstreamError
from slipstream.text.chat_template import Message

Render = Callable[[Sequence[Message]], str]  # messages to the prompt text: the model's chat template

# What a reply may not do to the terminal: everything that is neither text nor a line or column break.
_CONTROL_CHARACTERS = dict.fromkeys(code for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLimit:
    """How much fits into the model, counted as the model counts."""

    tokens: int
    count_tokens: Callable[[str], int]


def ask(
    client: TritonClient,
    prompt: str,
    max_tokens: int,
    out: TextIO,
    *,
    model: str = "ensemble",
    sampling: Sampling | None = None,
) -> Completion:
    """Stream the reply to `prompt` into `out` as it comes, then one line with tokens, TTFT and speed."""
    stream = client.stream(prompt, max_tokens=max_tokens, model=model, sampling=sampling)
    return _show(stream, out)


def converse(
    client: TritonClient,
    render: Render,
    max_tokens: int,
    lines: TextIO,
    out: TextIO,
    *,
    model: str = "ensemble",
    sampling: Sampling | None = None,
    limit: ContextLimit | None = None,
) -> list[Message]:
    """Answer each of `lines` until they end (Ctrl-D); returns the conversation. Ctrl-C stops only the running reply.

    With a `limit` the oldest turns are forgotten when the conversation outgrows it; a message that is too long by
    itself is refused.
    """
    messages: list[Message] = []
    while (line := _read_line(lines, out)) is not None:
        if not line.strip():
            continue
        asked = [*messages, {"role": "user", "content": line}]
        try:
            kept = _trimmed(asked, render, max_tokens, limit)
            _tell_forgotten(len(asked) - len(kept), out)
            stream = client.stream(render(kept), max_tokens=max_tokens, model=model, sampling=sampling)
            completion = _show_until_stopped(stream, out)
        except SlipstreamError as error:
            write_text(out, f"\n{error}\n")
        else:
            messages = [*kept, {"role": "assistant", "content": completion.text}]
    write_text(out, "\n")
    return messages


def show_summary(completion: Completion, out: TextIO) -> None:
    """One line about an answer whose text has been written: tokens, TTFT, speed."""
    write_text(out, f"{_line_break(completion)}  {_summary(completion)}\n")


def write_text(out: TextIO, text: str) -> None:
    """Write at once what `out` can show."""
    out.write(_printable(text, out))
    out.flush()


def _read_line(lines: TextIO, out: TextIO) -> str | None:
    """The next line without its end; None when there are no more."""
    if lines is sys.stdin and lines.isatty():
        return _read_line_of_terminal(out)
    line = lines.readline()
    return line.rstrip("\n") if line else None


def _read_line_of_terminal(out: TextIO) -> str | None:
    import readline  # noqa: F401 - gives input() editing and history

    while True:
        try:
            return input(_printable("› ", out))
        except EOFError:
            return None
        except KeyboardInterrupt:
            write_text(out, "\n  Ctrl-D ends the conversation\n")


def _show(stream: Stream, out: TextIO) -> Completion:
    for chunk in stream:
        write_text(out, chunk.text)
    completion = stream.completion
    show_summary(completion, out)
    return completion


def _show_until_stopped(stream: Stream, out: TextIO) -> Completion:
    try:
        return _show(stream, out)
    except KeyboardInterrupt:
        stream.close()
        completion = stream.completion
        write_text(out, f"\n  stopped · {_summary(completion)}\n")
        return completion


def _line_break(completion: Completion) -> str:
    return "" if completion.text.endswith("\n") else "\n"


def _summary(completion: Completion) -> str:
    count = completion.output_tokens
    facts = ["tokens not counted" if count is None else f"{count} token{'' if count == 1 else 's'}"]
    if completion.ttft_ms is not None:
        facts.append(f"TTFT {completion.ttft_ms:.0f} ms")
    if completion.tokens_per_s is not None:
        facts.append(f"{completion.tokens_per_s:.0f} tok/s")
    if completion.finish == "length":
        facts.append("cut at max_tokens")
    return " · ".join(facts)


def _trimmed(messages: list[Message], render: Render, max_tokens: int, limit: ContextLimit | None) -> list[Message]:
    """`messages` without as many of the oldest turns as it takes to fit; the last message always stays."""
    kept = list(messages)
    while limit is not None and (used := limit.count_tokens(render(kept)) + max_tokens) > limit.tokens:
        if len(kept) == 1:
            raise SlipstreamError(
                f"message: with {max_tokens} for the reply it takes {used} tokens, the context is {limit.tokens}",
                mend=f"shorten it by {used - limit.tokens} tokens, or lower max_tokens",
            )
        kept = kept[2:]  # a question and its answer
    return kept


def _tell_forgotten(count: int, out: TextIO) -> None:
    if count:
        write_text(out, f"  the context is full: the oldest {count} messages are forgotten\n")


def _printable(text: str, out: TextIO) -> str:
    """`text` with what `out` cannot encode replaced, and without control characters if it is a terminal."""
    if out.isatty():
        text = text.translate(_CONTROL_CHARACTERS)
    encoding = getattr(out, "encoding", None) or "utf-8"
    return text.encode(encoding, errors="replace").decode(encoding)
