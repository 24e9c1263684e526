"""Typed reading of the key-value part of a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.errors import SlipstreamError

if TYPE_CHECKING:
    from gguf import GGUFReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """The keys of one file."""

    path: Path
    reader: GGUFReader

    @classmethod
    def read(cls, path: Path) -> Metadata:
        """Open `path`; one clear error for what is no whole GGUF file."""
        from gguf import GGUFReader

        try:
            return cls(path=path, reader=GGUFReader(path))
        except (OSError, ValueError, IndexError, KeyError) as error:
            raise SlipstreamError(
                f"{path}: is not a whole GGUF file ({error})", mend="copy or download that file again"
            ) from error

    def text(self, key: str) -> str:
        return str(self.value(key))

    def integer(self, key: str) -> int:
        return int(self.value(key))

    def number(self, key: str, *, default: float | None = None) -> float:
        value = self.optional(key)
        if value is None and default is not None:
            return default
        # stored as float32: 1e-5 must not become 9.99999974e-06
        return float(f"{float(self.value(key)):.7g}")

    def value(self, key: str) -> Any:
        found = self.optional(key)
        if found is None:
            raise SlipstreamError(f"{self.path}: lacks {key}", mend="give a GGUF file that llama.cpp's converter wrote")
        return found

    def optional(self, key: str) -> Any:
        """The value of `key`; None where the file has none."""
        field = self.reader.get_field(key)
        return None if field is None else field.contents()
