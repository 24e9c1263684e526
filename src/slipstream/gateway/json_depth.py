"""How deep JSON goes, found without parsing it."""

from __future__ import annotations

import re

# A string that is never closed runs to the end of the text: without the second way out, the search would start again
# at each of its quotes.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z|\\\Z)', re.DOTALL)
_OTHERS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def is_deeper(text: bytes, limit: int) -> bool:
    """Whether objects and arrays of the JSON `text` lie inside each other more than `limit` times."""
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    import numpy as np

    brackets = np.frombuffer(_STRING.sub(b"", text).translate(None, _OTHERS), np.uint8)
    # Bit 1 is set in [ and {, and not in ] and }.
    steps = np.where(brackets & 2, 1, -1).astype(np.int8)
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0)) > limit
