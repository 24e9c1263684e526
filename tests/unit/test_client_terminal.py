"""The terminal chat against a server that speaks Triton's gRPC protocol."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import pytest

from slipstream.client import TritonClient
from slipstream.client.terminal import ContextLimit, ask, converse
from slipstream.errors import SlipstreamError
from slipstream.text.chat_template import Message
from tests.fakes.triton import FakeTriton, Script


class Terminal(io.StringIO):
    """What a terminal shows."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class LatinFile(io.StringIO):
    """A file that holds one script only."""

    encoding = "latin-1"


class StoppingTerminal(Terminal):
    """Ctrl-C is pressed when `at` is shown."""

    at = "two "

    def write(self, text: str) -> int:
        if text == self.at:
            self.at = ""
            raise KeyboardInterrupt
        return super().write(text)


def render(messages: Sequence[Message]) -> str:
    return "".join(f"<{message['role']}>{message['content']}" for message in messages) + "<assistant>"


def words(text: str) -> int:
    return len(text.replace("<", " <").replace(">", "> ").split())


@pytest.fixture
def triton() -> Iterator[FakeTriton]:
    with FakeTriton({"ensemble": Script(pieces=["one ", "two ", "three"], delay_s=0.01)}) as triton:
        yield triton


@pytest.fixture
def client(triton: FakeTriton) -> Iterator[TritonClient]:
    with TritonClient(triton.address, connect_timeout_s=0.1) as client:
        yield client


def prompts(triton: FakeTriton) -> list[str]:
    return [received.inputs["text_input"][0] for received in triton.received]


def test_a_question_is_answered_with_text_and_one_line_of_facts(client: TritonClient) -> None:
    out = io.StringIO()
    completion = ask(client, "Hello", 8, out)
    text, facts, end = out.getvalue().split("\n")
    assert (text, end) == ("one two three", "")
    assert facts.startswith("  3 tokens · TTFT ")
    assert completion.text == "one two three"


def test_the_line_of_facts_tells_the_speed_of_a_reply_that_takes_its_time() -> None:
    slow = Script(pieces=["one ", "two ", "three"], delay_s=0.2)
    with FakeTriton({"ensemble": slow}) as triton, TritonClient(triton.address) as client:
        out = io.StringIO()
        ask(client, "Hello", 8, out)
    assert out.getvalue().endswith(" tok/s\n")


def test_text_that_ends_a_line_gets_no_second_line_end() -> None:
    with FakeTriton({"ensemble": Script(pieces=["line\n"])}) as triton, TritonClient(triton.address) as client:
        out = io.StringIO()
        ask(client, "Hello", 8, out)
    assert out.getvalue().startswith("line\n  1 token · TTFT ")


def test_a_reply_cut_by_the_limit_says_so(client: TritonClient) -> None:
    out = io.StringIO()
    ask(client, "Hello", 3, out)
    assert out.getvalue().endswith(" · cut at max_tokens\n")


def test_what_the_output_cannot_write_is_replaced() -> None:
    with FakeTriton({"ensemble": Script(pieces=["né 🙂"])}) as triton, TritonClient(triton.address) as client:
        out = LatinFile()
        ask(client, "Hello", 8, out)
    assert out.getvalue().startswith("né ?\n")


def test_a_model_cannot_command_the_terminal() -> None:
    with FakeTriton({"ensemble": Script(pieces=["a\x1b[2Jb\tc"])}) as triton, TritonClient(triton.address) as client:
        out = Terminal()
        completion = ask(client, "Hello", 8, out)
    assert out.getvalue().startswith("a[2Jb\tc\n")
    assert completion.text == "a\x1b[2Jb\tc"


def test_a_conversation_remembers_what_was_said(client: TritonClient, triton: FakeTriton) -> None:
    messages = converse(client, render, 8, io.StringIO("first\n\nsecond\n"), io.StringIO())
    assert [message["content"] for message in messages] == ["first", "one two three", "second", "one two three"]
    assert prompts(triton) == [
        "<user>first<assistant>",
        "<user>first<assistant>one two three<user>second<assistant>",
    ]


def test_ctrl_c_stops_the_reply_and_not_the_conversation(client: TritonClient, triton: FakeTriton) -> None:
    out = StoppingTerminal()
    messages = converse(client, render, 8, io.StringIO("first\nsecond\n"), out)
    assert "\n  stopped · 2 tokens" in out.getvalue()
    assert triton.wait_until_cancelled() == [triton.received[0].id]
    assert [message["content"] for message in messages] == ["first", "one two ", "second", "one two three"]


def test_the_oldest_turns_are_forgotten_when_the_context_is_full(client: TritonClient, triton: FakeTriton) -> None:
    out = io.StringIO()
    limit = ContextLimit(tokens=23, count_tokens=words)
    messages = converse(client, render, 8, io.StringIO("a a\nb b\nc c\n"), out, limit=limit)
    assert "the context is full: the oldest 2 messages are forgotten" in out.getvalue()
    assert prompts(triton)[-1].startswith("<user>b b<assistant>")
    assert messages[0]["content"] == "b b"
    assert all(words(prompt) + 8 <= 23 for prompt in prompts(triton))


def test_a_message_too_long_alone_is_refused_and_the_talk_goes_on(client: TritonClient, triton: FakeTriton) -> None:
    out = io.StringIO()
    limit = ContextLimit(tokens=14, count_tokens=words)
    messages = converse(client, render, 8, io.StringIO("x x x x x\nshort\n"), out, limit=limit)
    assert "with 8 for the reply it takes 15 tokens, the context is 14" in out.getvalue()
    assert "shorten it by 1 tokens" in out.getvalue()
    assert prompts(triton) == ["<user>short<assistant>"]
    assert len(messages) == 2


def test_a_failed_reply_is_told_and_forgotten() -> None:
    with FakeTriton({"ensemble": Script(error="out of memory")}) as triton, TritonClient(triton.address) as client:
        out = io.StringIO()
        assert converse(client, render, 8, io.StringIO("first\n"), out) == []
    assert "ensemble refuses the request: out of memory" in out.getvalue()


def test_a_single_question_fails_with_the_error(client: TritonClient) -> None:
    with pytest.raises(SlipstreamError, match="no model 'nope'"):
        ask(client, "Hello", 8, io.StringIO(), model="nope")
