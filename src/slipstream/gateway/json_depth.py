"""How deep JSON goes, found without parsing it."""

from __future__ import annotations

import re

# A string that is never closed runs to the end of the text: without the second way out, the search would start again
# at each of its quotes.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z|\\\Z)', re.DOTALL)
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def is_deeper(text: bytes, limit: int) -> bool:
    """Whether objects and arrays of the JSON `text` lie inside each other more than `limit` times.

    Text whose brackets do not match, which no parser takes, may be called deep too.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    brackets = _STRING.sub(b"", text).translate(_AS_SQUARE, _OTHERS)
    for _ in range(limit):  # each round takes away the innermost ones
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)
