"""What all groups of settings share, and the groups that say what is deployed and on which GPUs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Dtype = Literal["float16", "bfloat16", "float32"]
KvCacheFormat = Literal["auto", "fp8", "int8"]
Target = Literal["openvino", "tensorrt_llm", "llmapi"]
Execution = Literal["performance", "accuracy"]
Port = Annotated[int, Field(ge=1, le=65535)]

# A path on the machine that serves; it goes into files that Triton's shell and TensorRT-LLM's parsers read.
AbsolutePath = Annotated[str, Field(pattern=r"^/[\w./+@%=:-]*$", max_length=4096)]


class Group(BaseModel):
    """A frozen group of settings that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelSpec(Group):
    """Which checkpoint is deployed."""

    source: str = Field(
        min_length=1,
        max_length=4096,
        description="`bundled:smollm2-135m-instruct`, a Hugging Face checkpoint directory, or a hub id `org/name`",
    )
    dtype: Dtype = Field("float16", description="type of the weights that are not quantized")


class QuantizationSpec(Group):
    """How the weights and the KV cache are quantized."""

    recipe: str = Field("none", max_length=64, description="name of a file under `quantize/recipes/`")
    kv_cache: KvCacheFormat = Field("auto", description="format of the KV cache; `auto` keeps the engine's own")


class HardwareSpec(Group):
    """The GPUs of the machines that serve; named as in the planner's catalogue."""

    gpu: str = Field(min_length=1, max_length=64, description="for example `H100 80GB SXM`, `A100 80GB SXM`, `B200`")
    gpus_per_node: int = Field(8, ge=1, le=72, description="GPUs that one machine gives to this deployment")
    nodes: int = Field(1, ge=1, le=64, description="machines of one replica")
