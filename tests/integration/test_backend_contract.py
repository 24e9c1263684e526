"""What docs/contract.md says of every input holds on a real tritonserver."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from slipstream.repository.contract import Tensor, contract
from slipstream.text.tokenizer import Tokenizer
from tests.conftest import Served
from tests.integration.triton_calls import PROMPT, Stream, ask, prompt_of, text, token_ids
from tests.unit.test_contract_doc import MODELS, input_status

INPUTS = [(model, tensor) for model in MODELS for tensor in contract()[model].inputs]
REFUSED = [(model, tensor) for model, tensor in INPUTS if "refused" in input_status(model, tensor.name)]
ACCEPTED = [(model, tensor) for model, tensor in INPUTS if input_status(model, tensor.name).startswith("accepted")]
WORKING = [(model, tensor) for model, tensor in INPUTS if input_status(model, tensor.name) == "works"]
DTYPES = {"STRING": np.object_, "FP16": np.float16, "FP32": np.float32, "BOOL": np.bool_}
# What asks for something that can be had together with a plain request; all others stand in `a_request` already.
WANTED: dict[str, Any] = {
    "beam_width": 2,
    "early_stopping": True,
    "len_penalty": 1.0,
    "length_penalty": 1.0,
    "num_return_sequences": 2,
    "bad_words": "Paris",
    "bad_words_list": np.array([[[40], [1]]], np.int32),
    "draft_acceptance_threshold": 0.5,
    "draft_input_ids": [1000, 1001],
    "draft_logits": np.zeros((1, 2, 49152), np.float32),
    "end_id": 2,
    "exclude_input_in_output": True,
    "frequency_penalty": 0.5,
    "guided_decoding_guide": "[a-z]{3}",
    "guided_decoding_guide_type": "regex",
    "min_tokens": 2,
    "presence_penalty": 0.5,
    "repetition_penalty": 1.2,
    "return_context_logits": True,
    "return_generation_logits": True,
    "return_log_probs": True,
    "return_num_input_tokens": True,
    "return_num_output_tokens": True,
    "return_perf_metrics": True,
    "runtime_top_k": 5,
    "runtime_top_p": 0.5,
    "seed": 7,
    "stop": False,
    "stop_words": "zzz",
    "stop_words_list": np.array([[[40], [1]]], np.int32),
    "stream": True,
    "streaming": True,
    "temperature": 0.7,
    "top_k": 5,
    "top_p": 0.5,
}
# What can be asked for in company only.
COMPANY = {
    "draft_acceptance_threshold": ("draft_input_ids", "draft_logits", "runtime_top_k"),
    "draft_logits": ("draft_input_ids", "runtime_top_k"),
    "guided_decoding_guide": ("guided_decoding_guide_type",),
    "guided_decoding_guide_type": ("guided_decoding_guide",),
}


def case(value: object) -> str:
    return value.name if isinstance(value, Tensor) else str(value)


def a_request(served: Served, model: str) -> dict[str, Any]:
    if model == "tensorrt_llm":
        ids = Tokenizer.load(served.model_dir).encode(PROMPT)
        return {**prompt_of(ids, 4), "streaming": True, "end_id": 2}
    return {"text_input": PROMPT, "max_tokens": 4, "stream": True}


def some(tensor: Tensor) -> npt.NDArray[Any]:
    """A value of the tensor's type that asks for something."""
    kind = tensor.data_type.removeprefix("TYPE_")
    dtype = DTYPES.get(kind) or np.dtype(kind.lower())
    value = b"x" if kind == "STRING" else True if kind == "BOOL" else 3
    return np.full([1, *(max(size, 1) for size in tensor.dims)], value, dtype)


@pytest.mark.parametrize(("model", "tensor"), REFUSED, ids=case)
def test_an_input_that_is_refused_is_refused_with_its_reason(served: Served, model: str, tensor: Tensor) -> None:
    reason = input_status(model, tensor.name).partition(": ")[2]
    with pytest.raises(Exception, match=reason):
        ask(served, model, **{**a_request(served, model), tensor.name: some(tensor)})


@pytest.mark.parametrize(("model", "tensor"), ACCEPTED, ids=case)
def test_an_input_without_effect_leaves_the_answer_as_it_is(served: Served, model: str, tensor: Tensor) -> None:
    read = token_ids if model == "tensorrt_llm" else text
    request = a_request(served, model)
    assert read(ask(served, model, **{**request, tensor.name: some(tensor)})) == read(ask(served, model, **request))


@pytest.mark.parametrize(("model", "tensor"), WORKING, ids=case)
def test_an_input_that_works_is_taken(served: Served, model: str, tensor: Tensor) -> None:
    request = a_request(served, model)
    assert tensor.name in {**request, **WANTED}
    company = {other: WANTED[other] for other in COMPANY.get(tensor.name, ())}
    assert ask(served, model, **{**request, tensor.name: {**WANTED, **request}[tensor.name], **company})


@pytest.mark.parametrize("model", MODELS)
def test_tritons_priority_is_accepted(served: Served, model: str) -> None:
    stream = Stream(served)
    stream.start(model, priority=1, **a_request(served, model))
    assert stream.rest()
    stream.close()
