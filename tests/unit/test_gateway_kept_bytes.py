"""What is kept takes the room that is counted: orjson's bytes have room for more behind them."""

from __future__ import annotations

import tracemalloc

import orjson

from slipstream.gateway.caching.stores import MemoryValues
from slipstream.gateway.responses.memory import ResponseMemory, StoredResponse

COUNT = 500


def short_json(number: int) -> bytes:
    return orjson.dumps({"id": number, "text": "x" * 300})


def test_stored_responses_take_little_more_than_their_text() -> None:
    memory = ResponseMemory()
    tracemalloc.start()
    try:
        for number in range(COUNT):
            memory.put("caller", str(number), StoredResponse(body=short_json(number), messages=[]))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / COUNT < 1500


def test_kept_answers_take_little_more_than_their_text() -> None:
    values = MemoryValues(max_bytes=1 << 20, ttl_s=60)
    tracemalloc.start()
    try:
        for number in range(COUNT):
            values.put(str(number), short_json(number))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / COUNT < 1500
