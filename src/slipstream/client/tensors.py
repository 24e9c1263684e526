"""Values to Triton's raw tensor bytes and back. Without numpy: these tensors are small and there is one per token."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slipstream.errors import SlipstreamError

_FORMATS = {"INT32": "<i", "UINT64": "<Q", "FP32": "<f"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input; the first dimension is the batch, which is always 1 here."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


def flag(name: str) -> Tensor:
    """True, shape [1, 1]; a flag that is off is not sent."""
    return Tensor(name=name, datatype="BOOL", shape=(1, 1), raw=b"\x01")


def scalar(name: str, datatype: str, value: float) -> Tensor:
    """One number, shape [1, 1]."""
    return Tensor(name=name, datatype=datatype, shape=(1, 1), raw=_pack(name, datatype, _FORMATS[datatype], [value]))


def int_rows(name: str, rows: Sequence[Sequence[int]], *, is_matrix: bool = False) -> Tensor:
    """INT32 ids: one row of shape [1, ids], or a matrix of shape [1, rows, ids]."""
    ids = [token for row in rows for token in row]
    shape = (1, len(rows), len(rows[0])) if is_matrix else (1, len(ids))
    return Tensor(name=name, datatype="INT32", shape=shape, raw=_pack(name, "INT32", f"<{len(ids)}i", ids))


def text_row(name: str, texts: Sequence[str]) -> Tensor:
    """Texts as UTF-8, each behind its length, shape [1, texts]."""
    encoded = [_utf8(name, text) for text in texts]
    raw = b"".join(struct.pack("<I", len(text)) + text for text in encoded)
    return Tensor(name=name, datatype="BYTES", shape=(1, len(texts)), raw=raw)


def first_text(raw: bytes) -> str:
    """The first text of a BYTES tensor; "" if it has none."""
    if len(raw) < 4:
        return ""
    (length,) = struct.unpack_from("<I", raw)
    return raw[4 : 4 + length].decode("utf-8", errors="replace")


def ints(raw: bytes) -> tuple[int, ...]:
    """All values of an INT32 tensor."""
    return struct.unpack(f"<{len(raw) // 4}i", raw)


def floats(raw: bytes) -> tuple[float, ...]:
    """All values of an FP32 tensor."""
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def raw_outputs(response: Any) -> dict[str, bytes]:
    """Output tensors of a `ModelInferResponse` by name."""
    return {output.name: raw for output, raw in zip(response.outputs, response.raw_output_contents, strict=False)}


def _pack(name: str, datatype: str, form: str, values: Sequence[float]) -> bytes:
    try:
        return struct.pack(form, *values)
    except (struct.error, OverflowError) as error:
        shown = values[0] if len(values) == 1 else "one of its values"
        raise SlipstreamError(f"{name}: {shown} does not fit {datatype}", mend="give a value in its range") from error


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:  # half of a surrogate pair, as broken terminal input gives
        raise SlipstreamError(
            f"{name}: character {error.start} of the text is not Unicode ({text[error.start]!r})",
            mend="send well-formed text",
        ) from error
