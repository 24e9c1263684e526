"""A request to `tensorrt_llm_bls` in the tensors of the engine's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.bls_drafting import Drafting, read_drafting
from slipstream.backend.prompt import IMAGES, Prompt, PromptSettings, read_prompt, refuse_unserved_text
from slipstream.backend.tensors import RequestRefusedError, Tensors, flag, is_given
from slipstream.backend.trailer import call_marker

# The inputs that preprocessing reads, under its names.
PROMPT_INPUTS = {
    "text_input": "QUERY",
    "decoder_text_input": "DECODER_QUERY",
    "image_bytes_input": "IMAGE_BYTES",
    "image_url_input": "IMAGE_URL",
    "image_sizes_input": "IMAGE_SIZES",
    "video_bytes_input": "VIDEO_BYTES",
    "max_tokens": "REQUEST_OUTPUT_LEN",
    "bad_words": "BAD_WORDS_DICT",
    "stop_words": "STOP_WORDS_DICT",
    "embedding_bias_words": "EMBEDDING_BIAS_WORDS",
    "embedding_bias_weights": "EMBEDDING_BIAS_WEIGHTS",
    "end_id": "END_ID",
    "pad_id": "PAD_ID",
    "prompt_table_extra_id": "PROMPT_TABLE_EXTRA_ID",
}

# Inputs that the engine reads under another name; all others keep theirs.
RENAMED = {
    "top_k": "runtime_top_k",
    "top_p": "runtime_top_p",
    "length_penalty": "len_penalty",
    "stream": "streaming",
}

IMAGE_INPUT = "image_input"
_DRAFT = "the repository has no draft model"
DRAFT_INPUTS = {"num_draft_tokens": _DRAFT, "use_draft_logits": _DRAFT}  # and why they are refused then


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """What the engine is asked."""

    engine_tensors: dict[str, NDArray[Any]]
    streaming: bool
    drafting: Drafting | None  # none: the target writes alone


def read_text_request(
    tensors: Tensors, settings: PromptSettings, *, decoupled: bool, has_draft_model: bool
) -> TextRequest:
    """Tokenize the prompt and pass on everything that the engine itself accepts or refuses."""
    drafting = read_drafting(tensors, has_draft_model=has_draft_model)
    if is_given(tensors, IMAGE_INPUT):
        raise RequestRefusedError(f"{IMAGE_INPUT}: {IMAGES}; leave it out")
    if is_given(tensors, "text_input") and tensors["text_input"].size > 1:
        raise RequestRefusedError(
            f"text_input holds {tensors['text_input'].size} prompts, the limit is 1: send them one by one"
        )
    prompt_tensors = {PROMPT_INPUTS[name]: tensor for name, tensor in tensors.items() if name in PROMPT_INPUTS}
    if not is_given(prompt_tensors, "QUERY"):
        raise RequestRefusedError("text_input is missing")
    refuse_unserved_text(prompt_tensors)
    streaming = bool(flag(tensors, "stream"))
    if streaming and not decoupled:
        raise RequestRefusedError("stream is true, but the model is not decoupled: it gives one response a request")
    prompt = read_prompt(prompt_tensors, 0, settings)
    engine_tensors = {**_passed_on(tensors), **_prompt_inputs(prompt)}
    return TextRequest(engine_tensors=engine_tensors, streaming=streaming, drafting=drafting)


def _passed_on(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {
        RENAMED.get(name, name): tensor if tensor.ndim > 1 else tensor.reshape(1, -1)
        for name, tensor in tensors.items()
        if name not in PROMPT_INPUTS and name not in DRAFT_INPUTS and tensor.size > 0
    }


def _prompt_inputs(prompt: Prompt) -> dict[str, NDArray[Any]]:
    inputs: dict[str, NDArray[Any]] = {
        "input_ids": np.array([prompt.ids], np.int32),
        "input_lengths": np.array([[len(prompt.ids)]], np.int32),
        "request_output_len": np.array([[prompt.max_tokens]], np.int32),
        "end_id": np.array([[prompt.end_id]], np.int32),
        "pad_id": np.array([[prompt.pad_id]], np.int32),
        "prompt_table_extra_ids": call_marker()[np.newaxis],
    }
    if prompt.stop_words.size:
        inputs["stop_words_list"] = prompt.stop_words[np.newaxis]
    if prompt.bad_words.size:
        inputs["bad_words_list"] = prompt.bad_words[np.newaxis]
    return inputs
