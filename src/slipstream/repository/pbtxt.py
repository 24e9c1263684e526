"""`config.pbtxt` through Triton's own protobuf, never by text substitution."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.errors import SlipstreamError
from slipstream.repository.contract import EnsembleStep, Tensor, contract, contract_name
from slipstream.repository.model_plan import Batching, ModelPlan
from slipstream.repository.parameters import as_strings

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def model_config(plan: ModelPlan) -> ModelConfig:
    """The configuration of one model: the plan's settings and the contract's tensors."""
    from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

    rules = contract()[contract_name(plan.name)]
    config = ModelConfig(name=plan.name, max_batch_size=plan.max_batch_size)
    if plan.backend is None:
        config.platform = "ensemble"
        _add_steps(config, [*rules.steps, *plan.further_steps])
    else:
        config.backend = plan.backend
        for key, text in as_strings(plan.name, plan.backend, plan.parameters).items():
            config.parameters[key].string_value = text
    _add_tensors(config.input, rules.inputs)
    _add_tensors(config.output, rules.outputs)
    if plan.decoupled is not None:
        config.model_transaction_policy.decoupled = plan.decoupled
    if plan.batching is not None:
        _set_batching(config, plan.batching)
    if plan.instances is not None:
        config.instance_group.add(count=plan.instances, kind=ModelInstanceGroup.KIND_CPU)
    return config


def to_text(config: ModelConfig) -> str:
    """The text of `config.pbtxt`; equal configurations have equal texts."""
    from google.protobuf import text_format

    text: str = text_format.MessageToString(config)
    return text


def read_config(path: Path) -> ModelConfig:
    """Parse a `config.pbtxt`; SlipstreamError says in which line it is not one."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    try:
        return ModelConfig.FromString(_parsed(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise SlipstreamError(f"{path}: cannot be read: {error}", mend="render the repository again") from error
    except text_format.ParseError as error:
        raise SlipstreamError(
            f"{path}:{error}: not a Triton model configuration", mend="render the repository again"
        ) from error


@lru_cache(maxsize=64)
def _parsed(text: str) -> bytes:
    """The binary form of a configuration: its text is read by Python, ten milliseconds each, and read often."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    message: bytes = text_format.Parse(text, ModelConfig()).SerializeToString()
    return message


def _add_tensors(declared: Any, tensors: Sequence[Tensor]) -> None:
    """Append `tensors` to `declared`, a configuration's `input` or `output`."""
    from tritonclient.grpc.model_config_pb2 import DataType

    for tensor in tensors:
        entry = declared.add(name=tensor.name, data_type=DataType.Value(tensor.data_type), dims=tensor.dims)
        # Set only where true: an output has no such fields.
        if tensor.optional:
            entry.optional = True
        if tensor.allow_ragged_batch:
            entry.allow_ragged_batch = True
        if tensor.reshape_to_scalar:
            entry.reshape.SetInParent()  # present with an empty shape: [1] in the request, a scalar in the backend


def _add_steps(config: ModelConfig, steps: Sequence[EnsembleStep]) -> None:
    for step in steps:
        config.ensemble_scheduling.step.add(
            model_name=step.model_name,
            model_version=step.model_version,
            input_map=step.input_map,
            output_map=step.output_map,
        )


def _set_batching(config: ModelConfig, batching: Batching) -> None:
    dynamic = config.dynamic_batching
    dynamic.SetInParent()  # present even with no setting: `dynamic_batching { }` is on
    if batching.preferred_batch_size is not None:
        dynamic.preferred_batch_size.append(batching.preferred_batch_size)
    dynamic.max_queue_delay_microseconds = batching.max_queue_delay_us
    _set_queue(dynamic, batching)


def _set_queue(dynamic: Any, batching: Batching) -> None:
    """Set the queue policy where it differs from Triton's own, which has no limits."""
    from tritonclient.grpc.model_config_pb2 import ModelQueuePolicy

    wanted = ModelQueuePolicy(
        max_queue_size=batching.max_queue_size,
        default_timeout_microseconds=batching.queue_timeout_us,
        timeout_action=ModelQueuePolicy.TimeoutAction.Value(batching.queue_timeout_action),
        allow_timeout_override=batching.allow_queue_timeout_override,
    )
    if wanted != ModelQueuePolicy():
        dynamic.default_queue_policy.CopyFrom(wanted)
