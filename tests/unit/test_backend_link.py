"""The link between the BLS model and the engine's: answers reach who asked, and a break is told."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Queue

import numpy as np
import pytest

from slipstream.backend import link, link_client, link_server
from slipstream.backend.bls_call import EngineFailedError
from slipstream.backend.link import Answer, Ask
from slipstream.backend.link_client import BROKEN, NOT_THERE, LinkClient
from slipstream.backend.link_server import LinkReply, LinkServer
from slipstream.backend.messages import Ending, Tokens
from slipstream.backend.stream import Stream
from tests.unit.engine_bench import a_request

MODEL = "engine-of-a-test"


class Receiver:
    def __init__(self) -> None:
        self.answers: Queue[Answer | str] = Queue()

    def take(self, answer: Answer) -> None:
        self.answers.put(answer)

    def lose(self, reason: str) -> None:
        self.answers.put(reason)

    def next(self) -> Answer | str:
        return self.answers.get(timeout=5)


@pytest.fixture(autouse=True)
def siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends are in this process, whose parent is the test runner's."""
    monkeypatch.setattr(link_client, "link_address", lambda _server, model: link.link_address(os.getpid(), model))


@contextmanager
def a_server(
    take: Callable[[Ask, LinkReply], None], after_withdrawal: Callable[[], None] = lambda: None
) -> Iterator[LinkServer]:
    server = LinkServer(os.getpid(), MODEL, take, after_withdrawal)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes a child of the test runner's parent, this process, for its sibling."""

    def is_sibling(connection: socket.socket, _server: int) -> bool:
        return link.is_sibling(connection, os.getppid())

    monkeypatch.setattr(link_server, "is_sibling", is_sibling)


def ask(client: LinkClient, receiver: Receiver) -> link_client.Asked:
    tensors = {"input_ids": np.array([[1, 2]], np.int32)}
    for _ in range(50):
        try:
            return client.ask(tensors, receiver, outputs=frozenset(), parameters={"speculation": "off"}, timeout_us=7)
        except EngineFailedError:  # the server is about to listen
            threading.Event().wait(0.02)
    raise AssertionError("nobody listens")


def piece_of(stream: Stream, ids: list[int], ending: Ending | None = None) -> None:
    stream.push(Tokens(stream.handle, ids, ending=ending))


@pytest.mark.usefixtures("of_this_process")
def test_a_request_arrives_whole_and_its_answers_in_order() -> None:
    asked: Queue[Ask] = Queue()

    def take(request: Ask, reply: LinkReply) -> None:
        asked.put(request)
        stream = Stream(handle=1, request=a_request(streaming=True), vocabulary=None, interval=1)
        for ids, ending in (([5], None), ([6, 7], None), ([8], Ending.LENGTH)):
            piece_of(stream, ids, ending)
            piece = stream.take()
            assert piece is not None
            reply.send(stream, piece)

    receiver = Receiver()
    with a_server(take):
        client = LinkClient(MODEL)
        ask(client, receiver)
        answers = [receiver.next() for _ in range(3)]
        client.close()
    request = asked.get(timeout=5)
    assert request.tensors["input_ids"].tolist() == [[1, 2]]
    assert (request.parameters, request.timeout_us) == ({"speculation": "off"}, 7)
    assert [answer.ids for answer in answers if isinstance(answer, Answer)] == [[5], [6, 7], [8]]
    assert [answer.is_final for answer in answers if isinstance(answer, Answer)] == [False, False, True]


@pytest.mark.usefixtures("of_this_process")
def test_responses_that_are_not_the_last_travel_with_their_step() -> None:
    begun = threading.Event()

    def take(_request: Ask, reply: LinkReply) -> None:
        stream = Stream(handle=1, request=a_request(streaming=True), vocabulary=None, interval=1)
        piece_of(stream, [5])
        piece = stream.take()
        assert piece is not None
        reply.send(stream, piece)
        begun.set()

    receiver = Receiver()
    with a_server(take) as server:
        client = LinkClient(MODEL)
        ask(client, receiver)
        assert begun.wait(5)
        assert receiver.answers.empty()
        server.flush()
        answer = receiver.next()
        client.close()
    assert isinstance(answer, Answer)
    assert answer.ids == [5]


@pytest.mark.usefixtures("of_this_process")
def test_a_request_that_is_withdrawn_counts_as_cancelled_and_no_other() -> None:
    replies: Queue[LinkReply] = Queue()
    told = threading.Event()
    with a_server(lambda _request, reply: replies.put(reply), told.set):
        client = LinkClient(MODEL)
        first = ask(client, Receiver())
        ask(client, Receiver())
        one, other = (replies.get(timeout=5) for _ in range(2))
        first.withdraw()
        assert told.wait(5)
        assert one.is_cancelled()
        assert not other.is_cancelled()
        client.close()


@pytest.mark.usefixtures("of_this_process")
def test_a_refusal_and_the_failure_of_one_of_two_generations_are_told() -> None:
    def take(_request: Ask, reply: LinkReply) -> None:
        reply.expect(2)
        stream = Stream(handle=1, request=a_request(), vocabulary=None, interval=1)
        reply.fail(stream, "one failed")
        reply.fail(stream, "the other, too")

    receiver = Receiver()
    with a_server(take):
        client = LinkClient(MODEL)
        ask(client, receiver)
        first, second = receiver.next(), receiver.next()
        client.close()
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert (first.failure, first.is_final) == ("one failed", False)
    assert (second.failure, second.is_final) == ("the other, too", True)


@pytest.mark.usefixtures("of_this_process")
def test_who_waits_is_told_when_the_engine_is_gone_and_the_next_one_asks_anew() -> None:
    replies: Queue[LinkReply] = Queue()
    client, receiver = LinkClient(MODEL), Receiver()
    with a_server(lambda _request, reply: replies.put(reply)):
        ask(client, receiver)
        replies.get(timeout=5)
    assert receiver.next() == BROKEN
    with a_server(lambda _request, reply: reply.refuse("no")):
        again = Receiver()
        ask(client, again)
        answer = again.next()
    assert isinstance(answer, Answer)
    assert answer.failure == "no"
    client.close()


@pytest.mark.usefixtures("of_this_process")
def test_the_replies_of_a_client_that_is_gone_are_cancelled() -> None:
    replies: Queue[LinkReply] = Queue()
    with a_server(lambda _request, reply: replies.put(reply)):
        client = LinkClient(MODEL)
        ask(client, Receiver())
        reply = replies.get(timeout=5)
        client.close()
        for _ in range(250):
            if reply.is_cancelled():
                break
            threading.Event().wait(0.02)
        assert reply.is_cancelled()


def test_an_engine_that_is_not_there_is_an_error() -> None:
    with pytest.raises(EngineFailedError, match=NOT_THERE[:30]):
        LinkClient("no such model").ask({}, Receiver(), outputs=frozenset(), parameters={}, timeout_us=0)


def test_a_process_of_another_server_is_not_heard() -> None:
    taken: Queue[Ask] = Queue()
    with (
        a_server(lambda request, _reply: taken.put(request)),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger,
    ):
        for _ in range(50):
            try:
                stranger.connect(link.link_address(os.getpid(), MODEL))
                break
            except OSError:
                threading.Event().wait(0.02)
        assert stranger.recv(1) == b"", "this process is no child of the one that the server takes for its parent"
    assert taken.empty()
