"""The packaged contract: complete, typed, and not edited by accident."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from slipstream.repository.contract import contract, contract_name

# Inputs, outputs, and a digest over every tensor and map of the model in TensorRT-LLM 1.2.1.
# A new version of TensorRT-LLM changes these; nothing else does.
UPSTREAM = {
    "preprocessing": (14, 20, "c9b1e4a6bc8a7908"),
    "tensorrt_llm": (62, 21, "78859714c8be8600"),
    "postprocessing": (2, 1, "668cec935a620ce3"),
    "ensemble": (36, 19, "ace04bf5e4556538"),
    "tensorrt_llm_bls": (43, 19, "1608b0d84c1d3fb7"),
}


def raw_models() -> dict[str, Any]:
    from importlib.resources import files

    text = files("slipstream.repository.contract").joinpath("triton_models.json").read_text(encoding="utf-8")
    models: dict[str, Any] = json.loads(text)["models"]
    return models


def digest(model: dict[str, Any]) -> str:
    flags = ("optional", "allow_ragged_batch", "reshape_to_scalar")
    tensors = [
        [side, row["name"], row["data_type"], row["dims"], *(row.get(flag, False) for flag in flags)]
        for side in ("inputs", "outputs")
        for row in model[side]
    ]
    maps = [
        [step["model_name"], sorted(step["input_map"].items()), sorted(step["output_map"].items())]
        for step in model.get("ensemble_scheduling", [])
    ]
    return hashlib.sha256(json.dumps([tensors, maps]).encode()).hexdigest()[:16]


def test_the_contract_has_the_five_models() -> None:
    assert set(contract()) == set(UPSTREAM)


@pytest.mark.parametrize("name", sorted(UPSTREAM))
def test_every_tensor_and_map_is_upstreams(name: str) -> None:
    model = raw_models()[name]
    assert (len(model["inputs"]), len(model["outputs"]), digest(model)) == UPSTREAM[name]


@pytest.mark.parametrize("name", sorted(UPSTREAM))
def test_types_left_to_the_deployer_have_a_value(name: str) -> None:
    from tritonclient.grpc.model_config_pb2 import DataType

    tensors = (*contract()[name].inputs, *contract()[name].outputs)
    assert {tensor.data_type for tensor in tensors} <= set(DataType.keys())


def test_the_keys_whose_absence_ends_the_load_are_marked() -> None:
    required = {key for key, parameter in contract()["tensorrt_llm"].parameters.items() if parameter.required}
    assert required == {"gpt_model_type", "tokenizer_dir", "guided_decoding_backend", "xgrammar_tokenizer_info_path"}


def test_the_ensemble_is_wired_from_its_inputs_to_its_outputs() -> None:
    ensemble = contract()["ensemble"]
    produced = {name for step in ensemble.steps for name in step.output_map.values()}
    consumed = {name for step in ensemble.steps for name in step.input_map.values()}
    assert consumed - produced == {tensor.name for tensor in ensemble.inputs}
    assert {tensor.name for tensor in ensemble.outputs} <= produced


def test_the_steps_of_the_ensemble_name_tensors_of_their_models() -> None:
    for step in contract()["ensemble"].steps:
        model = contract()[step.model_name]
        assert set(step.input_map) <= {tensor.name for tensor in model.inputs}
        assert set(step.output_map) <= {tensor.name for tensor in model.outputs}


def test_a_draft_follows_the_contract_of_its_target() -> None:
    assert contract_name("tensorrt_llm_draft") == "tensorrt_llm"
