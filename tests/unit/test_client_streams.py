"""Both shells against a server that speaks Triton's gRPC protocol."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import psutil
import pytest

from slipstream.client import AsyncTritonClient, Chunk, Completion, Sampling, Stream, TextRequest, TritonClient
from slipstream.errors import SlipstreamError
from tests.fakes.delayed import delayed
from tests.fakes.triton import FakeTriton, Script

Fetch = Callable[..., tuple[list[Chunk], Completion]]
SCRIPTS = {
    "plain": Script(pieces=["The ", "capital ", "is ", "Paris."]),
    "coalesced": Script(pieces=["one two ", "three"], token_counts=[5, 2]),
    "final with last": Script(pieces=["a", "b"], is_final_with_last_piece=True),
    "never says final": Script(pieces=["a", "b"], says_final=False),
    "empty": Script(pieces=[]),
    "held characters": Script(pieces=["", "", "🙂", " नमस्ते", " 你好", " Здравствуй", " שלום", "\r\n"]),
    "large": Script(pieces=["x" * 6_000_000]),
}
LONG = Script(pieces=["word "] * 2000, delay_s=0.01)


def fetch_blocking(address: str, prompt: str = "a b c", **options: Any) -> tuple[list[Chunk], Completion]:
    with TritonClient(address, connect_timeout_s=0.2) as client:
        stream = client.stream(prompt, **{"max_tokens": 100, **options})
        return list(stream), stream.completion


def fetch_async(address: str, prompt: str = "a b c", **options: Any) -> tuple[list[Chunk], Completion]:
    async def run() -> tuple[list[Chunk], Completion]:
        async with AsyncTritonClient(address, connect_timeout_s=0.2) as client:
            stream = client.stream(prompt, **{"max_tokens": 100, **options})
            return [chunk async for chunk in stream], stream.completion

    return asyncio.run(run())


@pytest.fixture(params=[fetch_blocking, fetch_async], ids=["blocking", "async"])
def fetch(request: pytest.FixtureRequest) -> Fetch:
    shell: Fetch = request.param
    return shell


@pytest.fixture
def long_reply() -> Iterator[FakeTriton]:
    with FakeTriton({"ensemble": LONG}) as triton:
        yield triton


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_pieces_come_whole_and_in_order(fetch: Fetch, name: str) -> None:
    script = SCRIPTS[name]
    with FakeTriton({"ensemble": script}) as triton:
        chunks, completion = fetch(triton.address)
    assert [chunk.text for chunk in chunks] == list(script.pieces)
    assert completion.text == "".join(str(piece) for piece in script.pieces)
    assert completion.output_tokens == sum(script.token_counts or [1] * len(script.pieces))
    assert completion.input_tokens == (3 if chunks else None)
    assert completion.finish == "stop"
    assert [chunk.at_ms for chunk in chunks] == sorted(chunk.at_ms for chunk in chunks)


@pytest.mark.parametrize("name", SCRIPTS)
def test_both_shells_give_the_same(name: str) -> None:
    def contents(result: tuple[list[Chunk], Completion]) -> Any:
        chunks, completion = result
        tally = (completion.text, completion.output_tokens, completion.input_tokens, completion.finish)
        return [(chunk.text, chunk.token_ids, chunk.output_tokens) for chunk in chunks], tally

    with FakeTriton({"ensemble": SCRIPTS[name]}) as triton:
        assert contents(fetch_blocking(triton.address)) == contents(fetch_async(triton.address))
        first, second = triton.received
    assert (first.inputs, first.shapes, first.outputs) == (second.inputs, second.shapes, second.outputs)


def test_what_was_asked_reaches_the_server(fetch: Fetch) -> None:
    with FakeTriton({"tensorrt_llm_bls": SCRIPTS["plain"]}) as triton:
        sampling = Sampling(temperature=0.5, seed=2**63)
        fetch(triton.address, "né", model="tensorrt_llm_bls", stop=("\n", "é"), bad_words=["x"], sampling=sampling)
        (received,) = triton.received
    assert received.inputs["text_input"] == ["né"]
    assert received.inputs["stop_words"] == ["\n", "é"]
    assert received.inputs["bad_words"] == ["x"]
    assert (received.inputs["temperature"], received.inputs["seed"]) == ([0.5], [2**63])
    assert received.inputs["stream"] == [True]
    assert received.wants_empty_final


def test_a_reply_as_long_as_allowed_was_cut(fetch: Fetch) -> None:
    with FakeTriton({"ensemble": SCRIPTS["plain"]}) as triton:
        assert fetch(triton.address, max_tokens=4)[1].finish == "length"


def test_a_server_that_does_not_count_leaves_counts_unknown(fetch: Fetch) -> None:
    with FakeTriton({"ensemble": Script(pieces=["a", "b"], counts_tokens=False)}) as triton:
        _, completion = fetch(triton.address)
    assert (completion.output_tokens, completion.input_tokens, completion.finish) == (None, None, None)
    assert completion.text == "ab"


def test_an_unknown_model_is_named(fetch: Fetch) -> None:
    with FakeTriton({"ensemble": LONG}) as triton, pytest.raises(SlipstreamError, match="no model 'nope'"):
        fetch(triton.address, model="nope")


def test_a_models_error_is_passed_on_without_the_request_id(fetch: Fetch) -> None:
    script = Script(pieces=["a"], error="prompt has 9 tokens, 4 fit")
    with FakeTriton({"ensemble": script}) as triton, pytest.raises(SlipstreamError) as raised:
        fetch(triton.address)
    assert raised.value.message == f"{triton.address}: ensemble refuses the request: prompt has 9 tokens, 4 fit"


def test_nothing_there_says_so_and_how_to_start_it(fetch: Fetch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(SlipstreamError, match="nothing answers there") as raised:
        fetch(address)
    assert raised.value.message.startswith(address)
    assert "slipstream up" in raised.value.mend


def test_a_server_that_starts_late_is_found(fetch: Fetch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    triton = FakeTriton({"ensemble": SCRIPTS["plain"]}, port=port)
    starting = threading.Timer(0.05, triton.__enter__)
    starting.start()
    try:
        assert fetch(triton.address)[1].text == "The capital is Paris."
    finally:
        starting.join()
        triton.__exit__(None, None, None)


def test_a_server_that_is_slow_to_shake_hands_is_waited_for(fetch: Fetch) -> None:
    with FakeTriton({"ensemble": SCRIPTS["plain"]}) as triton, delayed(triton.port, by_s=0.3) as address:
        chunks, _ = fetch(address)
    assert "".join(chunk.text for chunk in chunks) == "The capital is Paris."


def test_a_broken_connection_after_tokens_is_an_error_and_no_repetition(fetch: Fetch) -> None:
    with FakeTriton({"ensemble": Script(pieces=["a", "b"], status=grpc.StatusCode.UNAVAILABLE)}) as triton:
        with pytest.raises(SlipstreamError, match="the connection broke after 2 chunks"):
            fetch(triton.address)
        assert len(triton.received) == 1


def test_another_status_is_shown_as_it_came(fetch: Fetch) -> None:
    with (
        FakeTriton({"ensemble": Script(status=grpc.StatusCode.RESOURCE_EXHAUSTED)}) as triton,
        pytest.raises(SlipstreamError, match="RESOURCE_EXHAUSTED before any token: as the script says"),
    ):
        fetch(triton.address)


def test_a_failure_after_the_final_response_is_no_failure(fetch: Fetch) -> None:
    script = Script(pieces=["a"], is_final_with_last_piece=True, status=grpc.StatusCode.UNAVAILABLE)
    with FakeTriton({"ensemble": script}) as triton:
        assert fetch(triton.address)[1].finish == "stop"


def test_the_deadline_ends_a_reply_and_reaches_the_server(fetch: Fetch, long_reply: FakeTriton) -> None:
    with pytest.raises(SlipstreamError, match=r"was not complete within 0\.2 s, it stopped after \d+ chunks"):
        fetch(long_reply.address, deadline_s=0.2)
    assert long_reply.wait_until_cancelled() == [long_reply.received[0].id]


def test_the_deadline_ends_a_reply_that_never_begins(fetch: Fetch) -> None:
    with (
        FakeTriton({"ensemble": Script(hangs=True)}) as triton,
        pytest.raises(SlipstreamError, match=r"within 0\.2 s, it stopped before any token"),
    ):
        fetch(triton.address, deadline_s=0.2)


def test_leaving_the_loop_cancels(long_reply: FakeTriton) -> None:
    with TritonClient(long_reply.address) as client:
        for _ in client.stream("x", max_tokens=9):
            break
        assert long_reply.wait_until_cancelled() == [long_reply.received[0].id]


def test_an_error_in_the_loop_cancels(long_reply: FakeTriton) -> None:
    with TritonClient(long_reply.address) as client:
        with suppress(ZeroDivisionError), client.stream("x", max_tokens=9) as stream:
            for _ in stream:
                _ = 1 / 0
        assert long_reply.wait_until_cancelled() == [long_reply.received[0].id]
        assert stream.completion.finish == "cancelled"


def test_a_held_stream_is_cancelled_by_closing_and_then_over(long_reply: FakeTriton) -> None:
    with TritonClient(long_reply.address) as client:
        stream = client.stream("x", max_tokens=9)
        next(stream)
        stream.close()
        assert long_reply.wait_until_cancelled() == [long_reply.received[0].id]
        assert list(stream) == []
        assert stream.completion.text == "word "


def test_cancelled_streams_leave_no_connection_behind(long_reply: FakeTriton) -> None:
    """A call whose last events nobody takes keeps its connection open after its client was closed."""
    for leave in (Stream.close, Stream.__next__):  # the second one drops it
        with TritonClient(long_reply.address) as client:
            stream = client.stream("hello", max_tokens=2000)
            next(stream)
            leave(stream)
            del stream
    port = int(long_reply.address.rpartition(":")[2])
    deadline = time.monotonic() + 10
    while any(each.raddr and each.raddr.port == port for each in psutil.Process().net_connections("tcp")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_client_that_gave_up_and_was_closed_does_not_go_on_trying() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with TritonClient(address, connect_timeout_s=0.2) as client, pytest.raises(SlipstreamError, match="nothing"):
            client.generate("x", max_tokens=1)
        server.listen()
        server.settimeout(1.5)  # gRPC tries once a second at least
        with pytest.raises(TimeoutError):
            server.accept()


def test_closing_from_another_thread_ends_the_reader(long_reply: FakeTriton) -> None:
    with TritonClient(long_reply.address) as client:
        stream = client.stream("x", max_tokens=9)
        closing = threading.Timer(0.1, stream.close)
        closing.start()
        assert stream.finish().finish == "cancelled"
        closing.join()


def test_closing_the_client_ends_its_streams_with_an_error(long_reply: FakeTriton) -> None:
    client = TritonClient(long_reply.address)
    stream = client.stream("x", max_tokens=9)
    next(stream)
    client.close()
    with pytest.raises(SlipstreamError, match="CANCELLED"):
        list(stream)


def test_ctrl_c_while_waiting_cancels_though_the_stream_is_held() -> None:
    with FakeTriton({"ensemble": Script(hangs=True)}) as triton, TritonClient(triton.address) as client:
        stream = client.stream("x", max_tokens=9)
        threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        assert triton.wait_until_cancelled() == [triton.received[0].id]


def test_threads_share_a_client() -> None:
    with FakeTriton({"ensemble": Script(pieces=[f"{n} " for n in range(40)])}) as triton:
        texts: list[str] = []
        with TritonClient(triton.address) as client:
            ask = lambda: texts.append(client.generate("x", max_tokens=99).text)  # noqa: E731
            threads = [threading.Thread(target=ask) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert texts == ["".join(f"{n} " for n in range(40))] * 16
        assert len({received.id for received in triton.received}) == 16


def test_leaving_an_async_loop_cancels(long_reply: FakeTriton) -> None:
    async def run() -> list[str]:
        async with AsyncTritonClient(long_reply.address) as client:
            async for _ in client.stream("x", max_tokens=9):
                break
            return await asyncio.to_thread(long_reply.wait_until_cancelled)

    assert asyncio.run(run()) == [long_reply.received[0].id]


def test_cancelling_a_task_cancels_the_request(long_reply: FakeTriton) -> None:
    async def run() -> list[str]:
        async with AsyncTritonClient(long_reply.address) as client:
            stream = client.stream("x", max_tokens=9)
            task = asyncio.ensure_future(stream.finish())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert stream.completion.finish == "cancelled"
            return await asyncio.to_thread(long_reply.wait_until_cancelled)

    assert asyncio.run(run()) == [long_reply.received[0].id]


def test_an_async_timeout_cancels_the_request(long_reply: FakeTriton) -> None:
    async def run() -> list[str]:
        async with AsyncTritonClient(long_reply.address) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.generate("x", max_tokens=9)
            return await asyncio.to_thread(long_reply.wait_until_cancelled)

    assert asyncio.run(run()) == [long_reply.received[0].id]


def test_an_async_stream_closed_by_another_task_just_ends(long_reply: FakeTriton) -> None:
    async def run() -> Completion:
        async with AsyncTritonClient(long_reply.address) as client:
            stream = client.stream("x", max_tokens=9)
            asyncio.get_running_loop().call_later(0.1, stream.close)
            return await stream.finish()

    assert asyncio.run(run()).finish == "cancelled"


def test_closing_the_async_client_ends_its_streams_with_an_error(long_reply: FakeTriton) -> None:
    async def run() -> None:
        client = AsyncTritonClient(long_reply.address)
        stream = client.stream("x", max_tokens=9)
        await anext(stream)
        await client.close()
        with pytest.raises(SlipstreamError, match="CANCELLED"):
            await stream.finish()

    asyncio.run(run())


def test_a_hundred_async_streams_keep_their_words_apart() -> None:
    pieces = [f"{n} " for n in range(30)]

    async def run(address: str) -> list[Completion]:
        async with AsyncTritonClient(address) as client:
            return await asyncio.gather(*(client.generate(f"prompt {n}", max_tokens=99) for n in range(100)))

    with FakeTriton({"ensemble": Script(pieces=pieces, delay_s=0.001)}) as triton:
        completions = asyncio.run(run(triton.address))
        assert len(triton.finished) == 100
    assert {completion.text for completion in completions} == {"".join(pieces)}
    assert len({completion.request_id for completion in completions}) == 100


def test_cancelling_one_of_many_leaves_the_others(long_reply: FakeTriton) -> None:
    short = Script(pieces=["word "] * 30, delay_s=0.01)

    async def run(address: str) -> list[Completion]:
        async with AsyncTritonClient(address) as client:
            streams = [client.stream("x", max_tokens=99) for _ in range(8)]
            await anext(streams[3])
            streams[3].close()
            return list(await asyncio.gather(*(stream.finish() for stream in streams)))

    with FakeTriton({"ensemble": short}) as triton:
        completions = asyncio.run(run(triton.address))
        assert triton.wait_until_cancelled() == [completions[3].request_id]
    assert [completion.finish for completion in completions].count("stop") == 7


def test_token_ids_go_in_and_come_out() -> None:
    script = Script(pieces=[[7], [8, 9], [10]])
    with FakeTriton({"tensorrt_llm": script}) as triton, TritonClient(triton.address) as client:
        stream = client.stream_tokens([5, 6], max_tokens=9, end_id=2, sampling=Sampling(top_k=1))
        assert [chunk.token_ids for chunk in stream] == [(7,), (8, 9), (10,)]
        (received,) = triton.received
    assert stream.completion.token_ids == (7, 8, 9, 10)
    assert (stream.completion.input_tokens, stream.completion.output_tokens) == (2, 4)
    assert (received.inputs["input_ids"], received.inputs["input_lengths"]) == ([5, 6], [2])
    assert (received.inputs["end_id"], received.inputs["runtime_top_k"]) == ([2], [1])


def test_a_request_made_beforehand_keeps_its_id() -> None:
    with FakeTriton({"ensemble": SCRIPTS["plain"]}) as triton, TritonClient(triton.address) as client:
        request = TextRequest(prompt="x", max_tokens=4, request_id="77")
        assert client.send(request).finish().request_id == "77"
        assert triton.received[0].id == "77"
