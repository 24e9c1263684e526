"""How Python's collector treats a server: what stays is left alone, what comes and goes is looked at in bulk."""

from __future__ import annotations

import gc

_YOUNG_OBJECTS = 10_000  # Python's 700 are reached several times a request


def settle_memory() -> None:
    """Call when everything that stays has been loaded: it is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 50)
