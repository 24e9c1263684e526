"""The pool of KV blocks; against the pipeline's own: tests/integration/test_kv_mirror.py."""

from __future__ import annotations

import tracemalloc

from slipstream.backend.kv_blocks import BlockPool


def test_unused_blocks_are_overwritten_in_the_order_of_their_last_use() -> None:
    pool = BlockPool(blocks=3, caching=True)
    for block in [pool.take(key) for key in (1, 2, 3)]:
        pool.give_back(block)
    pool.give_back(pool.find(1))
    assert [pool.holds(key) for key in (1, 2, 3)] == [True, True, True]
    for new, held in ((4, [True, False, True]), (5, [True, False, False]), (6, [False, False, False])):
        pool.take(new)
        assert [pool.holds(key) for key in (1, 2, 3)] == held
    assert pool.available == 0


def test_of_two_blocks_with_the_same_text_one_is_free_again() -> None:
    pool = BlockPool(blocks=3, caching=True)
    for block in [pool.take(7) for _ in range(2)]:
        pool.give_back(block)
    assert (pool.fresh, pool.available, pool.holds(7)) == (2, 3, True)


def test_memory_is_flat_while_the_same_text_is_found_again_and_again() -> None:
    pool = BlockPool(blocks=50, caching=True)
    pool.give_back(pool.take(1))
    tracemalloc.start()
    try:
        for _ in range(20_000):
            pool.give_back(pool.find(1))
        assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()
