"""Whatever valid deployment is rendered: every file parses and holds what the contract names, and nothing else.

The contract is read here from tests/contract/trtllm-1.2.1/triton_models.json, and values are parsed as the C++ backend
parses them; no code is shared with the renderer.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from slipstream.progress import silent
from slipstream.repository.references import neutral_locations
from slipstream.repository.render import render_repository
from slipstream.spec import DeploymentSpec
from tests.unit.generated_deployments import deployments

CONTRACT = Path(__file__).parents[1] / "contract/trtllm-1.2.1/triton_models.json"
DEPLOYERS_TYPES = {
    "${logits_datatype}": "TYPE_FP32",
    "${encoder_input_features_data_type}": "TYPE_FP16",
    "${prompt_embedding_table_data_type}": "TYPE_FP16",
}
# Our BLS tokenizes in process: three parameters of its neighbours; and it ends a text that it speculates on.
BLS_ADDS = {
    "tokenizer_dir": "path",
    "add_special_tokens": "bool",
    "skip_special_tokens": "bool",
    "slipstream_max_seq_len": "uint",
}
# The contract gives no types for the parameters of the Python models.
TYPES_OF_PYTHON_MODELS = {
    "tokenizer_dir": "path",
    "add_special_tokens": "bool",
    "skip_special_tokens": "bool",
    "accumulate_tokens": "bool",
    "tensorrt_llm_model_name": "str",
    "tensorrt_llm_draft_model_name": "str",
}


@cache
def contract(model: str) -> dict[str, Any]:
    rules: dict[str, Any] = json.loads(CONTRACT.read_text(encoding="utf-8"))["models"][model]
    return rules


def within(low: int, high: int) -> Callable[[str], bool]:
    return lambda text: bool(re.fullmatch(r"[+-]?\d+", text)) and low <= int(text) <= high


def each(separator: str, rule: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda text: all(rule(part) for part in text.split(separator))


int32 = within(-(2**31), 2**31 - 1)


def float32(text: str) -> bool:
    """What stof takes: it throws for a number that a float cannot hold."""
    if not re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", text):
        return False
    return float(text) == 0 or 1.17549436e-38 <= abs(float(text)) <= 3.4028234e38


PARSERS: dict[str, Callable[[str], bool]] = {
    "int": int32,
    "uint": within(0, 2**32 - 1),
    "size_t": within(0, 2**64 - 1),
    "float": float32,
    "bool": lambda text: text in {"True", "true", "TRUE", "1", "False", "false", "FALSE", "0"},
    "str": lambda text: bool(text) and text.isprintable(),
    "path": lambda text: text.startswith("/") and text.isprintable(),
    "csv of int": each(",", int32),
    "csv; ; separates instances": each(";", each(",", int32)),
    '"{0,0},{0,1}"': lambda text: bool(re.fullmatch(r"\{\d+(,\d+)*\}(,\{\d+(,\d+)*\})*", text)),
}


def parses(model: str, name: str, text: str) -> bool:
    rules = contract(model)
    row = {**rules["parameters"], **rules.get("extra_parameters", {}), **BLS_ROWS}.get(name, {})
    if "fixed_value" in row:
        return bool(text == row["fixed_value"])
    if "allowed" in row and model == "tensorrt_llm":
        return text in row["allowed"]
    if row.get("required_key") and not text:
        return True
    kind = row.get("type") or TYPES_OF_PYTHON_MODELS[name]
    return PARSERS[kind](text)


BLS_ROWS = {name: {"type": kind} for name, kind in BLS_ADDS.items()}


def required(model: str) -> set[str]:
    if model in {"preprocessing", "postprocessing"}:
        return {"tokenizer_dir"}
    return {name for name, row in contract(model).get("parameters", {}).items() if row.get("required_key")}


def tensors(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The template declares one output twice, which Triton takes for one."""
    return {
        row["name"]: (DEPLOYERS_TYPES.get(row["data_type"], row["data_type"]), row["dims"], row.get("optional", False))
        for row in rows
    }


def declared(entries: Any) -> dict[str, Any]:
    return {
        entry.name: (DataType.Name(entry.data_type), list(entry.dims), getattr(entry, "optional", False))
        for entry in entries
    }


def rendering(spec: DeploymentSpec) -> dict[str, str]:
    """Every config.pbtxt, by model."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory)
        render_repository(spec, neutral_locations(spec), out, silent)
        return {path.parent.name: path.read_text(encoding="utf-8") for path in out.glob("*/config.pbtxt")}


def check_model(name: str, text: str) -> ModelConfig:
    model = name.removesuffix("_draft")
    rules = contract(model)
    config = text_format.Parse(text, ModelConfig())
    assert declared(config.input) == tensors(rules["inputs"])
    assert declared(config.output) == tensors(rules["outputs"])
    found = {key: value.string_value for key, value in config.parameters.items()}
    adds = set(BLS_ADDS) if model == "tensorrt_llm_bls" else set()
    known = {*rules.get("parameters", {}), *rules.get("extra_parameters", {}), *adds} - {"enable_trt_overlap"}
    assert required(model) <= set(found) <= known
    wrong = {key: value for key, value in found.items() if not parses(model, key, value)}
    assert not wrong
    return config


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(spec=deployments())
def test_every_rendering_keeps_the_contract(spec: DeploymentSpec) -> None:
    texts = rendering(spec)
    five = {"preprocessing", "tensorrt_llm", "postprocessing", "ensemble", "tensorrt_llm_bls"}
    assert set(texts) == five | ({"tensorrt_llm_draft"} if spec.engine.draft else set())
    for name, text in texts.items():
        assert "${" not in text
        config = check_model(name, text)
        assert config.name == name
        assert config.max_batch_size == spec.runtime.triton_max_batch_size


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(spec=deployments())
def test_instances_queue_and_policy_follow_the_spec(spec: DeploymentSpec) -> None:
    configs = {name: text_format.Parse(text, ModelConfig()) for name, text in rendering(spec).items()}
    runtime = spec.runtime
    counts = {name: [group.count for group in config.instance_group] for name, config in configs.items()}
    assert counts.pop("ensemble") == []
    assert counts.pop("tensorrt_llm_draft", [1]) == [1]
    assert counts == {
        "preprocessing": [runtime.preprocessing_instances],
        "tensorrt_llm": [runtime.engine_instances],
        "postprocessing": [1],
        "tensorrt_llm_bls": [runtime.bls_instances],
    }
    embedded = spec.engine.target == "openvino"
    if embedded:
        assert configs["tensorrt_llm"].parameters["slipstream_max_queue_size"].string_value == str(
            runtime.max_queue_size
        )
    for name in ("preprocessing",) if embedded else ("preprocessing", "tensorrt_llm"):
        queue = configs[name].dynamic_batching.default_queue_policy
        assert queue.max_queue_size == runtime.max_queue_size
        assert queue.default_timeout_microseconds == runtime.default_queue_timeout_microseconds
        assert queue.TimeoutAction.Name(queue.timeout_action) == runtime.queue_timeout_action
        assert queue.allow_timeout_override == runtime.allow_queue_timeout_override
    for name in ("tensorrt_llm", "tensorrt_llm_bls"):
        assert configs[name].model_transaction_policy.decoupled == runtime.decoupled
