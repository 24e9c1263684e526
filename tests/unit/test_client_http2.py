"""The async client's own HTTP/2 against gRPC's: sizes, windows, many calls, and ends that come early."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from slipstream.client import AsyncTritonClient
from slipstream.client.http2_frames import literal
from slipstream.client.responses import SameResponse, parsed
from slipstream.errors import SlipstreamError
from tests.fakes.triton import FakeTriton, Script


def run(script: Script, use: Callable[[AsyncTritonClient, FakeTriton], Awaitable[None]]) -> None:
    async def inside(triton: FakeTriton) -> None:
        async with AsyncTritonClient(triton.address) as client:
            await asyncio.wait_for(use(client, triton), 20)

    with FakeTriton({"tensorrt_llm": script}) as triton:
        asyncio.run(inside(triton))


def test_a_prompt_beyond_all_windows_arrives_whole_beside_others() -> None:
    prompt = list(range(300_000))

    async def use(client: AsyncTritonClient, triton: FakeTriton) -> None:
        replies = [client.stream_tokens(ids, max_tokens=5).finish() for ids in (prompt, [1], prompt, [2])]
        await asyncio.gather(*replies)
        got = sorted(one.inputs["input_ids"] for one in triton.received)
        assert got == sorted([prompt, [1], prompt, [2]])

    run(Script(pieces=[[7]]), use)


def test_a_prompt_that_is_given_up_while_it_is_sent_holds_nobody_up() -> None:
    async def use(client: AsyncTritonClient, _: FakeTriton) -> None:
        client.stream_tokens(range(2_000_000), max_tokens=5).close()
        assert (await client.stream_tokens([1], max_tokens=5).finish()).token_ids == (7,)

    run(Script(pieces=[[7]]), use)


def test_responses_of_any_size_arrive_whole() -> None:
    pieces = [list(range(size)) for size in (1, 4_000, 5, 400_000, 2)]

    async def use(client: AsyncTritonClient, _: FakeTriton) -> None:
        stream = client.stream_tokens([1], max_tokens=10**6)
        assert [list(chunk.token_ids) async for chunk in stream] == pieces

    run(Script(pieces=pieces), use)


def test_a_slow_reader_holds_the_server_up_and_loses_nothing() -> None:
    pieces = [[number] * 10_000 for number in range(100)]

    async def use(client: AsyncTritonClient, _: FakeTriton) -> None:
        stream = client.stream_tokens([1], max_tokens=10**6)
        await anext(stream)
        await asyncio.sleep(0.2)
        assert stream._call._unread_bytes < 3 << 20  # of 4 MB: a window and what is let stand unread
        assert [chunk.token_ids[0] async for chunk in stream] == list(range(1, 100))

    run(Script(pieces=pieces), use)


def test_many_calls_share_the_connection_and_end_each_on_its_own() -> None:
    async def use(client: AsyncTritonClient, triton: FakeTriton) -> None:
        streams = [client.stream_tokens([number + 1], max_tokens=9) for number in range(100)]
        for stream in streams[::2]:
            await anext(stream)
            stream.close()
        for done in await asyncio.gather(*(stream.finish() for stream in streams[1::2])):
            assert done.token_ids == (1, 2, 3)
        await asyncio.to_thread(triton.wait_until_cancelled, 50)

    run(Script(pieces=[[1], [2], [3]], delay_s=0.01), use)


@pytest.mark.parametrize("status", [grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_a_status_is_told_after_what_came_before_it(status: grpc.StatusCode) -> None:
    async def use(client: AsyncTritonClient, _: FakeTriton) -> None:
        stream = client.stream_tokens([1], max_tokens=9)
        assert (await anext(stream)).token_ids == (5,)
        with pytest.raises(SlipstreamError, match=f"{status.name} after 1 chunks: as the script says"):
            await anext(stream)

    run(Script(pieces=[[5]], status=status), use)


def test_a_server_that_ends_fails_what_is_open_and_its_successor_is_found() -> None:
    async def use() -> None:
        with FakeTriton({"tensorrt_llm": Script(pieces=[[5]], hangs=True)}) as triton:
            client = AsyncTritonClient(triton.address)
            stream = client.stream_tokens([1], max_tokens=9)
            await anext(stream)
            port = triton.port
        with pytest.raises(SlipstreamError, match=r"the connection broke after 1 chunks|CANCELLED"):
            await asyncio.wait_for(anext(stream), 5)
        with FakeTriton({"tensorrt_llm": Script(pieces=[[6]])}, port=port):
            assert (await client.stream_tokens([1], max_tokens=9).finish()).token_ids == (6,)
        await client.close()

    asyncio.run(use())


@pytest.mark.parametrize("size", [0, 126, 127, 128, 255, 20_000])
def test_a_header_of_any_length_is_read_as_it_was_written(size: int) -> None:
    import hpack

    value = "v" * size
    assert list(hpack.Decoder(max_header_list_size=1 << 20).decode(literal("name", value))) == [("name", value)]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=6), st.booleans())
def test_a_response_like_the_one_before_is_read_as_a_parser_reads_it(tokens: list[int], is_final: bool) -> None:
    same = SameResponse()
    for token in tokens:
        raw = a_response([token], is_final=False)
        response = parsed(raw)
        assert same.token(raw) in (None, struct.unpack("<i", response.outputs["output_ids"])[0])
        same.learn(raw, response)
    if is_final:
        assert same.token(a_response(tokens[:1], is_final=True)) is None
    assert same.token(a_response(tokens[:2], is_final=False)) is None


def test_a_response_like_the_one_before_needs_no_parser() -> None:
    same = SameResponse()
    first = a_response([70_000], is_final=False)
    same.learn(first, parsed(first))
    assert same.token(a_response([123_456], is_final=False)) == 123_456


def a_response(ids: list[int], *, is_final: bool) -> bytes:
    message = pb.ModelStreamInferResponse()
    message.infer_response.model_name, message.infer_response.id = "tensorrt_llm", "17"
    message.infer_response.parameters["triton_final_response"].bool_param = is_final
    raws = {"output_ids": struct.pack(f"<{len(ids)}i", *ids), "sequence_length": struct.pack("<i", len(ids))}
    for name, raw in raws.items():
        message.infer_response.outputs.add(name=name, datatype="INT32", shape=[1, 1, len(raw) // 4])
        message.infer_response.raw_output_contents.append(raw)
    serialized: bytes = message.SerializeToString()
    return serialized
