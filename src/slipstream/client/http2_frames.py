"""The bytes of HTTP/2 that one gRPC call needs (RFC 9113, and gRPC's own framing inside it)."""

from __future__ import annotations

import struct
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
LARGEST_WINDOW = 2**31 - 1
FIRST_WINDOW = 65_535  # of a peer that has said nothing else
MOST_FRAME_BYTES = 16_384  # what every peer takes
_HEADER = struct.Struct("!HBBBI")


class Kind(IntEnum):
    """Of a frame."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntEnum):
    """Of a frame; the same bit means another thing in another kind."""

    END_STREAM = 1
    ACK = 1
    END_HEADERS = 4
    PADDED = 8
    PRIORITY = 32


class Setting(IntEnum):
    """What one side tells the other of itself."""

    ENABLE_PUSH = 2
    INITIAL_WINDOW_SIZE = 4


CANCEL = 8  # why a stream was reset
# The status that gRPC gives to a stream that was reset without one, by its reason; the others are INTERNAL.
RESET_STATUS = {7: "UNAVAILABLE", 8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}


def frame(kind: Kind, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return _HEADER.pack(size >> 8, size & 255, kind, flags, stream_id) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """A frame of settings."""
    return frame(Kind.SETTINGS, 0, 0, b"".join(struct.pack("!HI", name, value) for name, value in values.items()))


def window_update(stream_id: int, size: int) -> bytes:
    """Leave to send `size` bytes more."""
    return frame(Kind.WINDOW_UPDATE, 0, stream_id, struct.pack("!I", size))


def reset(stream_id: int) -> bytes:
    """The end of a call that nobody waits for."""
    return frame(Kind.RST_STREAM, 0, stream_id, struct.pack("!I", CANCEL))


def read_settings(payload: bytes) -> dict[int, int]:
    """The settings in a frame; unknown ones too."""
    return dict(struct.iter_unpack("!HI", payload[: len(payload) // 6 * 6]))


def uint32(payload: bytes, at: int = 0) -> int:
    """The 31 bits of a stream's id, a window or a last stream."""
    value: int = struct.unpack_from("!I", payload, at)[0]
    return value & LARGEST_WINDOW


def without_padding(flags: int, payload: bytes, *, is_headers: bool) -> bytes:
    """What a frame holds beside its padding and its priority."""
    start, end = 0, len(payload)
    if flags & Flag.PADDED:
        start, end = 1, end - payload[0]
    if is_headers and flags & Flag.PRIORITY:
        start += 5
    return payload[start:end]


def header_block(path: str, authority: str) -> bytes:
    """The head of a gRPC call, in the form of HPACK that leaves no trace in either side's table."""
    return b"\x83\x86" + b"".join(  # :method POST, :scheme http
        literal(name, value)
        for name, value in (
            (":path", path),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", "slipstream"),
        )
    )


def literal(name: str, value: str) -> bytes:
    """One field of a header block."""
    return b"\x00" + _text(name.encode()) + _text(value.encode())


def message_prefix(message: bytes) -> bytes:
    """What stands before a gRPC message: not compressed, so many bytes."""
    return struct.pack("!BI", 0, len(message))


def _text(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes([size]) + text
    size -= 127
    head = bytearray([127])
    while size >= 128:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size]) + text
