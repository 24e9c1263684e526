"""One reply of the BLS model as it grows: parts of the engine come in, texts go out."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from slipstream.backend.bls_call import Part
from slipstream.backend.bls_request import TextRequest
from slipstream.backend.bls_texts import OutputTexts
from slipstream.backend.responses import place_tensors
from slipstream.backend.triton import TextReply


class TextAnswer:
    """Decodes the parts of one request and sends their texts."""

    def __init__(self, wanted: TextRequest, reply: TextReply, texts: OutputTexts, *, decoupled: bool) -> None:
        self._wanted = wanted
        self._reply = reply
        self._texts = texts
        self._decoupled = decoupled
        self._generations_left = wanted.num_generations
        # The response that ends a request which does not stream; after a stop there is none.
        self._last: list[str] | None = None
        self._others: dict[str, NDArray[Any]] = {}

    def push(self, part: Part) -> None:
        """Take the next part."""
        pieces = self._texts.push(part)
        self._generations_left -= 1
        if not self._wanted.streaming and self._generations_left == 0:
            self._last, self._others = pieces, part.others
        elif any(pieces) or part.others or not self._wanted.streaming:
            self._reply.send(pieces, part.others)

    def finish(self) -> None:
        """The engine has ended: send what is left."""
        requested = self._reply.requested
        for place, rest in self._texts.rests():
            others = {name: array for name, array in place_tensors(place).items() if name in requested}
            self._reply.send([rest], others)
        if self._last is None and self._decoupled:
            self._reply.close()
        else:
            # A model that is not decoupled owes a response also after a stop.
            self._reply.send_last(self._last or [""], self._others)
