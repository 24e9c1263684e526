"""A request to `tensorrt_llm_bls` in the tensors of the engine's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.bls_drafting import Drafting, read_drafting
from slipstream.backend.prompt import IMAGES, Prompt, PromptSettings, filled_ids, read_prompt, refuse_unserved_text
from slipstream.backend.sequences import has_beams, num_generations, num_rows
from slipstream.backend.tensors import RequestRefusedError, Tensors, first_flag, is_given
from slipstream.backend.trailer import call_marker
from slipstream.backend.words import padded

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
DRAFT_INPUTS = {"num_draft_tokens": _DRAFT, "use_draft_logits": _DRAFT}  # and when they are refused


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """What the engine is asked."""

    engine_tensors: dict[str, NDArray[Any]]
    streaming: bool
    num_generations: int
    has_beams: bool
    drafting: Drafting | None  # none: the target writes alone


def read_text_request(
    tensors: Tensors, settings: PromptSettings, *, decoupled: bool, has_draft_model: bool
) -> TextRequest:
    """Tokenize the prompts, one a row, and pass on everything that the engine itself accepts or refuses."""
    drafting = read_drafting(tensors, has_draft_model=has_draft_model)
    if is_given(tensors, IMAGE_INPUT):
        raise RequestRefusedError(f"{IMAGE_INPUT}: {IMAGES}; leave it out")
    prompt_tensors = {PROMPT_INPUTS[name]: tensor for name, tensor in tensors.items() if name in PROMPT_INPUTS}
    if not is_given(prompt_tensors, "QUERY"):
        raise RequestRefusedError("text_input is missing")
    refuse_unserved_text(prompt_tensors)
    streaming = first_flag(tensors, "stream")
    if streaming and not decoupled:
        raise RequestRefusedError("stream is true, but the model is not decoupled: it gives one response a request")
    rows = num_rows(tensors, "text_input")
    prompts = [read_prompt(prompt_tensors, row, settings) for row in range(rows)]
    passed_on = _passed_on(tensors, rows)
    return TextRequest(
        engine_tensors={**passed_on, **_prompt_inputs(prompts)},
        streaming=streaming,
        num_generations=num_generations(passed_on, rows),
        has_beams=has_beams(passed_on),
        drafting=drafting,
    )


def _passed_on(tensors: Mapping[str, NDArray[Any]], rows: int) -> dict[str, NDArray[Any]]:
    return {
        RENAMED.get(name, name): tensor if tensor.ndim > 1 else tensor.reshape(rows, -1)
        for name, tensor in tensors.items()
        if name not in PROMPT_INPUTS and name not in DRAFT_INPUTS and tensor.size > 0
    }


def _prompt_inputs(prompts: Sequence[Prompt]) -> dict[str, NDArray[Any]]:
    inputs: dict[str, NDArray[Any]] = {
        "input_ids": filled_ids(prompts),
        "input_lengths": np.array([[len(prompt.ids)] for prompt in prompts], np.int32),
        "request_output_len": np.array([[prompt.max_tokens] for prompt in prompts], np.int32),
        "end_id": np.array([[prompt.end_id] for prompt in prompts], np.int32),
        "pad_id": np.array([[prompt.pad_id] for prompt in prompts], np.int32),
        "prompt_table_extra_ids": np.tile(call_marker(), (len(prompts), 1)),
    }
    words = {
        "stop_words_list": padded([prompt.stop_words for prompt in prompts]),
        "bad_words_list": padded([prompt.bad_words for prompt in prompts]),
    }
    return inputs | {name: tensor for name, tensor in words.items() if tensor.size}
