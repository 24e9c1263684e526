"""Typed requests to Triton's wire form, tensor for tensor as TensorRT-LLM's models declare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any
from uuid import uuid4

from slipstream.client.tensors import Tensor, flag, int_rows, scalar, text_row
from slipstream.client.values import Guide, Sampling
from slipstream.errors import SlipstreamError

# `tensorrt_llm` has other names than the text models for three of the sampling settings.
_TOKEN_MODEL_NAMES = {"top_k": "runtime_top_k", "top_p": "runtime_top_p", "length_penalty": "len_penalty"}
_SAMPLING_TYPES = {"top_k": "INT32", "min_tokens": "INT32", "seed": "UINT64"}  # the others are FP32
_COUNTS = ("num_input_tokens", "num_output_tokens")


def new_request_id() -> str:
    """A fresh id: digits that fit a uint64, which every TensorRT-LLM backend takes as it is."""
    return str(uuid4().int >> 65)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """Text in, text out: for `ensemble` and `tensorrt_llm_bls`."""

    prompt: str
    max_tokens: int
    model: str = "ensemble"
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    bad_words: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()  # of the gRPC call, in lower case: a `traceparent`
    request_id: str = field(default_factory=new_request_id)

    @property
    def input_tokens(self) -> int | None:
        """Only the server can count them."""
        return None

    def message(self) -> Any:
        """The `inference.ModelInferRequest` to send."""
        inputs = [
            text_row("text_input", (self.prompt,)),
            scalar("max_tokens", "INT32", self.max_tokens),
            flag("stream"),
            flag("exclude_input_in_output"),
            # Tokens that are ready together travel in one response, so responses cannot be counted as tokens.
            flag("return_num_input_tokens"),
            flag("return_num_output_tokens"),
            *_sampling(self.sampling, renamed={}),
        ]
        if self.stop:
            inputs.append(text_row("stop_words", self.stop))
        if self.bad_words:
            inputs.append(text_row("bad_words", self.bad_words))
        return _message(self.model, self.request_id, inputs, outputs=("text_output", *_COUNTS))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """Token ids in, token ids out: for `tensorrt_llm`."""

    input_ids: tuple[int, ...]
    max_tokens: int
    model: str = "tensorrt_llm"
    sampling: Sampling = field(default_factory=Sampling)
    end_id: int | None = None
    pad_id: int | None = None
    stop_ids: tuple[tuple[int, ...], ...] = ()  # one sequence of ids per stop word
    bad_ids: tuple[tuple[int, ...], ...] = ()
    guide: Guide | None = None
    log_probs: bool = False  # of each token that is chosen
    metadata: tuple[tuple[str, str], ...] = ()  # of the gRPC call, in lower case: a `traceparent`
    request_id: str = field(default_factory=new_request_id)

    @property
    def input_tokens(self) -> int | None:
        """Tokens of the prompt."""
        return len(self.input_ids)

    def message(self) -> Any:
        """The `inference.ModelInferRequest` to send."""
        if not self.input_ids:
            raise SlipstreamError("input_ids: there are none", mend="send at least one token id")
        inputs = [
            int_rows("input_ids", [self.input_ids]),
            scalar("input_lengths", "INT32", len(self.input_ids)),
            scalar("request_output_len", "INT32", self.max_tokens),
            flag("streaming"),
            flag("exclude_input_in_output"),
            *_sampling(self.sampling, renamed=_TOKEN_MODEL_NAMES),
        ]
        ends = (("end_id", self.end_id), ("pad_id", self.pad_id))
        inputs += [scalar(name, "INT32", token) for name, token in ends if token is not None]
        inputs += [
            int_rows(name, _word_rows(words), is_matrix=True)
            for name, words in (("stop_words_list", self.stop_ids), ("bad_words_list", self.bad_ids))
            if words
        ]
        if self.guide is not None:
            inputs.append(text_row("guided_decoding_guide_type", (self.guide.kind,)))
            if self.guide.text:
                inputs.append(text_row("guided_decoding_guide", (self.guide.text,)))
        outputs = ["output_ids", "sequence_length"]
        if self.log_probs:
            inputs.append(flag("return_log_probs"))
            outputs.append("output_log_probs")
        return _message(self.model, self.request_id, inputs, outputs=outputs)


def _sampling(sampling: Sampling, *, renamed: dict[str, str]) -> list[Tensor]:
    given = [(setting.name, getattr(sampling, setting.name)) for setting in fields(sampling)]
    return [
        scalar(renamed.get(name, name), _SAMPLING_TYPES.get(name, "FP32"), value)
        for name, value in given
        if value is not None
    ]


def _word_rows(words: Sequence[Sequence[int]]) -> list[list[int]]:
    """Row 0: the ids of all words on end; row 1: where each word ends, filled up with -1."""
    ids = [token for word in words for token in word]
    ends = [sum(len(word) for word in words[: count + 1]) for count in range(len(words))]
    return [ids, ends + [-1] * (len(ids) - len(ends))]


def _message(model: str, request_id: str, inputs: Sequence[Tensor], *, outputs: Sequence[str]) -> Any:
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    # Without it an ensemble that was given no text never answers, and the end of some streams cannot be told.
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    for tensor in inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(tensor.raw)
    for name in outputs:
        message.outputs.add(name=name)
    return message
