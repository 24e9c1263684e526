"""Triton's responses as they come from the wire: most differ from the one before in one token alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from slipstream.client.tensors import raw_outputs

_ONE = struct.pack("<i", 1)
_TOKEN_FIELD = b"\x32\x04"  # raw_output_contents of ModelInferResponse, four bytes
_TOKEN = struct.Struct("<i")


@dataclass(frozen=True, slots=True)
class Response:
    """One `ModelStreamInferResponse`."""

    error: str
    is_final: bool
    outputs: dict[str, bytes]


class SameResponse:
    """The form of a response that holds one token, to read the next ones by.

    A message that is equal but for the four bytes of the token needs no parser: they stand where they stood.
    """

    __slots__ = ("_after", "_at", "_before", "_size")

    def __init__(self) -> None:
        self._size = -1  # of no message
        self._at = 0
        self._before = self._after = b""

    def learn(self, raw: bytes, response: Response) -> None:
        """Take `raw` as the form, if it is one."""
        outputs = response.outputs
        token = outputs.get("output_ids", b"")
        field = _TOKEN_FIELD + token
        is_plain = len(outputs) == 2 and len(token) == 4 and outputs.get("sequence_length") == _ONE
        if is_plain and not response.is_final and raw.count(field) == 1:
            self._size, self._at = len(raw), raw.index(field) + len(_TOKEN_FIELD)
            self._before, self._after = raw[: self._at], raw[self._at + len(token) :]

    def token(self, raw: bytes) -> int | None:
        """The token of a message of this form; None for any other."""
        if len(raw) == self._size and raw.startswith(self._before) and raw.endswith(self._after):
            token: int = _TOKEN.unpack_from(raw, self._at)[0]
            return token
        return None


def parsed(raw: bytes) -> Response:
    """Any response."""
    from tritonclient.grpc import service_pb2

    message: Any = service_pb2.ModelStreamInferResponse.FromString(raw)
    response = message.infer_response
    is_final = response.parameters["triton_final_response"].bool_param
    return Response(message.error_message, is_final, raw_outputs(response))
