"""Failures of the disk, said once and in words."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from slipstream.errors import SlipstreamError

_MENDS = {
    errno.ENOSPC: "free some space there, or give another place with --out",
    errno.EDQUOT: "free some of your quota there, or give another place with --out",
    errno.EACCES: "make it writable, or give another place with --out",
    errno.EROFS: "give a writable place with --out",
}


@contextmanager
def writing_to(directory: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk below `directory` into one clear error."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        code = _error_number(error)
        if code not in _MENDS:
            raise
        raise SlipstreamError(f"{directory}: cannot be written ({_words(code)})", mend=_MENDS[code]) from error


def _error_number(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # safetensors writes in Rust, whose error number is only in the message: `Os { code: 28, …` or `(os error 28)`
    found = re.search(r"(?:code: |os error )(\d+)", str(error))
    return int(found.group(1)) if found else None


def _words(code: int) -> str:
    words = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
    return words.get(code, "it is not writable")
