"""What the mirror of the pipeline's scheduler says of a request; against the pipeline: tests/integration."""

from __future__ import annotations

from slipstream.backend.kv_mirror import KvMirror
from slipstream.backend.messages import Start


def a_mirror(*, blocks: int = 100, max_num_tokens: int = 64, caching: bool = True) -> KvMirror:
    return KvMirror(blocks=blocks, max_num_tokens=max_num_tokens, max_num_seqs=8, caching=caching, splits=True)


def step(mirror: KvMirror, now_ns: int) -> None:
    mirror.begin_step(now_ns)
    mirror.end_step(scheduled_requests=0, used_blocks=0)


def answered(mirror: KvMirror, handle: int, prompt: list[int]) -> Start:
    """A request for one token."""
    start = mirror.add(handle, prompt)
    step(mirror, handle)
    mirror.push(handle, [7])
    mirror.end(handle)
    return start


def test_a_prompt_for_which_a_step_has_no_room_is_scheduled_with_the_next() -> None:
    mirror = a_mirror(max_num_tokens=64)
    starts = [mirror.add(handle, list(range(handle * 100, handle * 100 + 40))) for handle in (1, 2, 3)]
    step(mirror, 10)
    assert [start.scheduled_ns for start in starts] == [10, 10, 0], "the second with its first 24 tokens"
    mirror.push(1, [7])
    step(mirror, 20)
    assert [start.scheduled_ns for start in starts] == [10, 10, 20]


def test_blocks_are_counted_when_they_are_found_when_they_are_new_and_when_they_are_overwritten() -> None:
    mirror = a_mirror(blocks=3)
    first = answered(mirror, 1, list(range(64)))
    again = answered(mirror, 2, [*range(32), *range(100, 132)])
    other = answered(mirror, 3, list(range(200, 264)))
    assert first == Start(scheduled_ns=1, new_blocks=2, taken_blocks=2)
    assert again == Start(scheduled_ns=2, cached_tokens=32, reused_blocks=1, new_blocks=1, taken_blocks=1)
    assert other == Start(scheduled_ns=3, new_blocks=0, taken_blocks=2)
    late = answered(mirror, 4, [*range(32), *range(300, 310)])
    assert late.reused_blocks == 1, "the block that was used last is still there"


def test_nothing_is_found_without_a_prefix_cache() -> None:
    mirror = a_mirror(caching=False)
    for handle in (1, 2):
        assert answered(mirror, handle, list(range(64))) == Start(scheduled_ns=handle, new_blocks=2, taken_blocks=2)


def test_several_tokens_a_step_and_none_leave_the_mirror_whole() -> None:
    """Speculation gives several, a search with beams none before its end."""
    mirror = a_mirror()
    mirror.add(1, [1, 2, 3])
    mirror.add(2, [4, 5, 6])
    for now in range(1, 30):
        step(mirror, now)
        mirror.push(1, [7, 8, 9])
    assert not mirror.is_exact
    mirror.end(1)
    mirror.end(2)
    assert answered(mirror, 3, [1, 2, 3, *[7, 8, 9] * 25]).cached_tokens == 64
