"""The `preprocessing` model: text in, token ids out. Text is tokenized as it comes; chat templates are the client's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.orphan import end_with_server
from slipstream.backend.parameters import ModelConfig
from slipstream.backend.prompt import PromptSettings, filled_ids, read_prompt, refuse_unserved_text
from slipstream.backend.tensors import RequestRefusedError
from slipstream.backend.trailer import ensemble_marker
from slipstream.backend.triton import error_response, input_tensors, response
from slipstream.backend.words import padded
from slipstream.text.tokenizer import Tokenizer


class Preprocessing:
    """What Triton calls."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the tokenizer."""
        end_with_server()
        config = ModelConfig.of(args["model_config"])
        self._settings = PromptSettings(
            tokenizer=Tokenizer.load(config.text("tokenizer_dir")),
            add_special_tokens=config.loose_flag("add_special_tokens", default=True),
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Tokenize every request; a bad one gets an error and does not touch the others."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Nothing to release."""

    def _answer(self, request: Any) -> Any:
        try:
            return response(prepare(input_tensors(request), self._settings))
        except RequestRefusedError as error:
            return error_response(str(error))


def prepare(tensors: Mapping[str, NDArray[Any]], settings: PromptSettings) -> dict[str, NDArray[Any]]:
    """The tensors of the next step for a batch of prompts; every prompt is filled up to the longest with the pad id.

    Tensors that only other kinds of model need (a decoder's prompt, a bias) are empty rather than absent: an ensemble
    waits for every output that it maps.
    """
    refuse_unserved_text(tensors)
    prompts = [read_prompt(tensors, row, settings) for row in range(_rows(tensors))]
    batch = len(prompts)
    return {
        "INPUT_ID": filled_ids(prompts),
        "REQUEST_INPUT_LEN": np.array([[len(prompt.ids)] for prompt in prompts], np.int32),
        "DECODER_INPUT_ID": np.zeros((batch, 0), np.int32),
        "REQUEST_DECODER_INPUT_LEN": np.zeros((batch, 1), np.int32),
        "BAD_WORDS_IDS": padded([prompt.bad_words for prompt in prompts]),
        "STOP_WORDS_IDS": padded([prompt.stop_words for prompt in prompts]),
        "EMBEDDING_BIAS": np.zeros((batch, 0), np.float32),
        "REQUEST_OUTPUT_LEN": np.array([[prompt.max_tokens] for prompt in prompts], np.int32),
        "OUT_END_ID": np.array([[prompt.end_id] for prompt in prompts], np.int32),
        "OUT_PAD_ID": np.array([[prompt.pad_id] for prompt in prompts], np.int32),
        "OUT_PROMPT_TABLE_EXTRA_IDS": np.tile(ensemble_marker(), (batch, 1)),
    }


def _rows(tensors: Mapping[str, NDArray[Any]]) -> int:
    if "QUERY" not in tensors or tensors["QUERY"].size == 0:
        raise RequestRefusedError("text_input is missing")
    return int(tensors["QUERY"].shape[0])
