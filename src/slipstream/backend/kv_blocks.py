"""The pool of KV blocks as OpenVINO GenAI keeps it: what is free, what is in use and what can be used again.

A block is known by what it holds, written as a key of the whole text up to its last token. Blocks that nobody uses keep
their content until a block is needed and none is free; then the one that was used longest ago is overwritten.
"""

from __future__ import annotations

import heapq
from collections import deque


class Block:
    """One block of the pool."""

    __slots__ = ("key", "stamp", "users")

    def __init__(self, stamp: int) -> None:
        self.users = 0
        self.key = 0
        self.stamp = stamp  # of its last use by a prompt that found it or took it, in the order of these events


class BlockPool:
    """Follows GenAI's BlockAllocator and the table of hashes in its BlockManager, call by call.

    Without `caching` a block that is given back is free at once. Where two blocks hold the same text, the table names
    the one that came last, as there.
    """

    def __init__(self, *, blocks: int, caching: bool) -> None:
        self.blocks = blocks
        self._caching = caching
        self._free = deque(Block(stamp) for stamp in range(blocks))
        self._clock = blocks
        self._by_key: dict[int, Block] = {}
        self._unused: dict[int, Block] = {}  # their content may be found, or overwritten
        self._oldest: list[tuple[int, int]] = []  # (stamp, key) of the unused; entries of blocks in use again are stale

    @property
    def available(self) -> int:
        """Blocks that nobody uses."""
        return len(self._free) + len(self._unused)

    @property
    def fresh(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    def holds(self, key: int) -> bool:
        """A block holds the text of `key`."""
        return key in self._unused or key in self._by_key

    def find(self, key: int) -> Block:
        """Use the block that holds the text of `key`; there is one."""
        block = self._unused.pop(key, None) or self._by_key[key]
        block.users += 1
        self._touch(block)
        return block

    def take(self, key: int) -> Block:
        """Use a block for the text of `key`; one is available."""
        if self._free:
            block = self._free.popleft()
        else:
            block = self._pop_oldest()
            self._by_key.pop(block.key, None)
            self._touch(block)
        block.users += 1
        if self._caching:
            block.key = key
            self._by_key[key] = block
        return block

    def rename(self, block: Block, key: int) -> None:
        """`block` holds another text now: one token more."""
        if self._caching:
            self._by_key.pop(block.key, None)
            block.key = key
            self._by_key[key] = block

    def give_back(self, block: Block) -> None:
        """End one use of `block`."""
        block.users -= 1
        if block.users:
            return
        if not self._caching:
            self._free.append(block)
            return
        twin = self._unused.pop(block.key, None)
        if twin is not None:
            self._free.append(twin)
            if self._by_key.get(block.key) is twin:
                self._by_key[block.key] = block
        self._unused[block.key] = block
        self._queue(block)

    def _touch(self, block: Block) -> None:
        block.stamp = self._clock
        self._clock += 1

    def _queue(self, block: Block) -> None:
        heapq.heappush(self._oldest, (block.stamp, block.key))
        if len(self._oldest) > 2 * self.blocks:  # as long as some are free, nothing takes the stale ones out
            self._oldest = [(block.stamp, key) for key, block in self._unused.items()]
            heapq.heapify(self._oldest)

    def _pop_oldest(self) -> Block:
        while True:
            stamp, key = heapq.heappop(self._oldest)
            block = self._unused.get(key)
            if block is not None and block.stamp == stamp:
                return self._unused.pop(key)
