"""Requests that begin alike find each other: keys of a prompt's beginnings, and the backend where each is at home."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Collection, Sequence
from hashlib import blake2b

_KEY_BYTES = 12
_MOST_KEYS = 9  # beginnings of 1, 2, 4 … 256 blocks


def prefix_keys(prompt_ids: Sequence[int], block_tokens: int) -> list[bytes]:
    """Keys of the beginnings of 1, 2, 4 … blocks, shortest first; none of a prompt that is shorter than a block.

    Doubling lengths keep the keys few, and the longest that two prompts share is at least half of what they share.
    """
    ids = array("q", prompt_ids[: block_tokens << (_MOST_KEYS - 1)])
    digest, done, length = blake2b(digest_size=_KEY_BYTES), 0, block_tokens
    keys = []
    while length <= len(ids):
        digest.update(ids[done:length])
        keys.append(digest.digest())
        done, length = length, 2 * length
    return keys


def session_key(caller_id: str, session: str) -> bytes:
    """The key of all requests of one session of one caller."""
    return blake2b(f"{caller_id}\0{session}".encode(), digest_size=_KEY_BYTES).digest()


def ranked(key: bytes, addresses: Collection[str]) -> list[str]:
    """`addresses` in the order in which `key` prefers them: rendezvous hashing.

    Every process ranks alike, and one that comes or goes moves no key between the others.
    """
    return sorted(addresses, key=lambda address: blake2b(address.encode(), key=key, digest_size=8).digest())


class Homes:
    """Where the beginnings of the last requests are: bounded, the least recently used is forgotten first."""

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._homes: OrderedDict[bytes, str] = OrderedDict()

    def find(self, keys: Sequence[bytes], among: Collection[str]) -> str | None:
        """The home, one of `among`, of the longest of the beginnings `keys`."""
        return next((home for key in reversed(keys) if (home := self._homes.get(key)) in among), None)

    def settle(self, keys: Sequence[bytes], address: str, among: Collection[str]) -> None:
        """`address` has them all now; a beginning with a home among those stays there."""
        for key in keys:
            if self._homes.get(key) not in among:
                self._homes[key] = address
            self._homes.move_to_end(key)
        while len(self._homes) > self._limit:
            self._homes.popitem(last=False)
