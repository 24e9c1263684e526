"""One prompt of a text request: what preprocessing and the BLS model read alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.contract import BIAS
from slipstream.backend.tensors import RequestRefusedError, Tensors, is_given, text
from slipstream.backend.words import pack
from slipstream.text.tokenizer import Tokenizer

IMAGES = "the engine is not a multimodal model"

# Preprocessing's name of an input, the name that clients of the ensemble and of the BLS model use, and the reason.
UNSERVED = (
    ("DECODER_QUERY", "decoder_text_input", "the engine is a decoder-only model"),
    ("IMAGE_BYTES", "image_bytes_input", IMAGES),
    ("IMAGE_URL", "image_url_input", IMAGES),
    ("IMAGE_SIZES", "image_sizes_input", IMAGES),
    ("VIDEO_BYTES", "video_bytes_input", IMAGES),
    ("EMBEDDING_BIAS_WORDS", "embedding_bias_words", BIAS),
    ("EMBEDDING_BIAS_WEIGHTS", "embedding_bias_weights", BIAS),
    ("PROMPT_TABLE_EXTRA_ID", "prompt_table_extra_id", "prompt embeddings are not available on this engine"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSettings:
    """How prompts become tokens."""

    tokenizer: Tokenizer
    add_special_tokens: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt and the words that go with it."""

    ids: list[int]
    max_tokens: int
    end_id: int
    pad_id: int
    stop_words: NDArray[np.int32]  # [2, n]
    bad_words: NDArray[np.int32]  # [2, n]


def refuse_unserved_text(tensors: Mapping[str, NDArray[Any]]) -> None:
    """Raise `RequestRefusedError` for an input that the engine cannot honour; empty strings ask for nothing."""
    for name, client_name, reason in UNSERVED:
        if is_given(tensors, name) and any(value not in (b"", "", 0) for value in tensors[name].reshape(-1).tolist()):
            raise RequestRefusedError(f"{client_name}: {reason}; leave it out")


def read_prompt(tensors: Tensors, row: int, settings: PromptSettings) -> Prompt:
    """Row `row` of a batch in preprocessing's own tensor names.

    A model that ends its text with any of several ids is told the first; the others travel as stop words, unless the
    request names an end id of its own.
    """
    tokenizer = settings.tokenizer
    end_id = _whole(tensors, "END_ID", row)
    stop_words = _words(tensors, "STOP_WORDS_DICT", "stop_words", row, tokenizer)
    if end_id is None:
        end_id = tokenizer.eos_ids[0] if tokenizer.eos_ids else -1
        stop_words += [[token] for token in tokenizer.eos_ids[1:]]
    pad_id = _whole(tensors, "PAD_ID", row)
    if pad_id is None:
        pad_id = tokenizer.pad_id if tokenizer.pad_id is not None else max(end_id, 0)
    return Prompt(
        ids=_ids(tensors, row, settings),
        max_tokens=_max_tokens(tensors, row),
        end_id=end_id,
        pad_id=pad_id,
        stop_words=pack(stop_words),
        bad_words=pack(_words(tensors, "BAD_WORDS_DICT", "bad_words", row, tokenizer)),
    )


def filled_ids(prompts: Sequence[Prompt]) -> NDArray[np.int32]:
    """The prompts as int32 [batch, tokens], filled up to the longest with the pad id."""
    longest = max(len(prompt.ids) for prompt in prompts)
    return np.array([[*prompt.ids, *[prompt.pad_id] * (longest - len(prompt.ids))] for prompt in prompts], np.int32)


def _max_tokens(tensors: Tensors, row: int) -> int:
    max_tokens = _whole(tensors, "REQUEST_OUTPUT_LEN", row)
    if max_tokens is None:
        raise RequestRefusedError("max_tokens is missing")
    if max_tokens < 1:
        raise RequestRefusedError(f"max_tokens is {max_tokens}, it must be at least 1")
    return max_tokens


def _ids(tensors: Tensors, row: int, settings: PromptSettings) -> list[int]:
    query = text(tensors["QUERY"].reshape(tensors["QUERY"].shape[0], -1)[row][0], "text_input")
    ids = settings.tokenizer.encode(query, add_special_tokens=settings.add_special_tokens)
    if not ids:
        raise RequestRefusedError("text_input is empty: a prompt needs at least one token")
    return ids


def _words(tensors: Tensors, name: str, client_name: str, row: int, tokenizer: Tokenizer) -> list[list[int]]:
    if not is_given(tensors, name):
        return []
    values = tensors[name]
    texts = [text(value, client_name) for value in values.reshape(values.shape[0], -1)[row]]
    return [tokenizer.encode(word, add_special_tokens=False) for word in texts if word]


def _whole(tensors: Tensors, name: str, row: int) -> int | None:
    if not is_given(tensors, name):
        return None
    return int(tensors[name].reshape(tensors[name].shape[0], -1)[row][0])
