"""The `postprocessing` model: token ids in, text out. It has no state: every response is decoded by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.orphan import end_with_server
from slipstream.backend.parameters import ModelConfig
from slipstream.backend.pieces_of_text import PieceDecoder
from slipstream.backend.stop_sender import StopSender
from slipstream.backend.tensors import Tensors
from slipstream.backend.trailer import Trailer, read_trailer
from slipstream.backend.triton import input_tensors, response
from slipstream.text.tokenizer import Tokenizer


class Postprocessing:
    """What Triton calls. It also tells the engine when the ensemble's client has gone away, see trailer.py."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the tokenizer."""
        end_with_server()
        config = ModelConfig.of(args["model_config"])
        tokenizer = Tokenizer.load(config.text("tokenizer_dir"))
        skip_special_tokens = config.loose_flag("skip_special_tokens", default=True)
        self._decoder = PieceDecoder(tokenizer, skip_special_tokens=skip_special_tokens)
        self._skip_special_tokens = skip_special_tokens
        self._stops = StopSender()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Decode every request."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Wait for the stop requests that are on their way."""
        self._stops.close()

    def _answer(self, request: Any) -> Any:
        tensors = input_tensors(request)
        rows = read_rows(tensors)
        for row in rows:
            if row.trailer is not None and self._stops.is_due(row.trailer.handle) and request.is_cancelled():
                self._stops.stop(row.trailer.handle)
        texts = [
            self._decoder.decode(row.ids, begins_text=row.begins_text(skip_special_tokens=self._skip_special_tokens))
            for row in rows
        ]
        output = np.array([text.encode() for text in texts], np.object_)
        return response({"OUTPUT": output.reshape(tensors["SEQUENCE_LENGTH"].shape)})


class Row:
    """The tokens of one sequence."""

    def __init__(self, ids: list[int], length: int) -> None:
        self.ids = ids[:length]
        self.trailer: Trailer | None = read_trailer(ids, length)

    def begins_text(self, *, skip_special_tokens: bool) -> bool:
        """Nothing of the same text came in an earlier response."""
        if self.trailer is None:
            return True
        return self.trailer.only_special_before if skip_special_tokens else self.trailer.tokens_before == 0


def read_rows(tensors: Tensors) -> list[Row]:
    """The sequences of TOKENS_BATCH [batch, beams, tokens], each cut to its SEQUENCE_LENGTH [batch, beams]."""
    tokens: NDArray[np.int32] = tensors["TOKENS_BATCH"]
    lengths: list[int] = tensors["SEQUENCE_LENGTH"].reshape(-1).tolist()
    sequences: list[list[int]] = tokens.reshape(len(lengths), -1).tolist()
    return [Row(ids, length) for ids, length in zip(sequences, lengths, strict=True)]
