"""The deployment spec: the only place where a fact about a deployment is written.

`deployments/NAME.yaml` is read once, at the edge, into a frozen `DeploymentSpec`; nothing inside reads YAML again.
Settings are grouped by what a change of one of them costs:

========================  =====================================================================
`model`, `quantization`   the checkpoint is made again, and everything after it
`engine`                  the engine is compiled again (tp_size and pp_size: the checkpoint too)
`runtime`                 the model repository is rendered again and the models are reloaded
`gateway`                 a rolling restart of the gateway
========================  =====================================================================

Names are TensorRT-LLM's and Triton's own, so that their manuals can be searched.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Dtype = Literal["float16", "bfloat16", "float32"]
KvCacheFormat = Literal["auto", "fp8", "int8"]
Target = Literal["openvino", "tensorrt_llm"]
Execution = Literal["performance", "accuracy"]
Port = Annotated[int, Field(ge=1, le=65535)]

# A deployment's name becomes a directory, a model label and, later, a Kubernetes object name.
NAME_PATTERN = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"


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


class DraftSpec(Group):
    """The draft model of draft-target speculation; it shares the target's tensor and pipeline parallelism."""

    model: ModelSpec
    quantization: QuantizationSpec = QuantizationSpec()
    max_draft_len: int = Field(5, ge=1, le=64, description="draft tokens that the target verifies in one step")
    kv_cache_free_gpu_mem_fraction: float = Field(
        0.1, gt=0, lt=1, description="share of the GPU memory left after weights for the draft's KV cache"
    )


class EngineSpec(Group):
    """What is compiled into the engine."""

    target: Target = Field(description="`openvino`: CPU, embedded; `tensorrt_llm`: GPU, trtllm-build")
    tp_size: int = Field(1, ge=1, le=64, description="tensor-parallel ranks")
    pp_size: int = Field(1, ge=1, le=64, description="pipeline-parallel ranks")
    moe_ep_size: int = Field(
        1, ge=1, le=64, description="of the tp_size ranks, so many groups hold different experts; 1: each expert is cut"
    )
    max_batch_size: int = Field(32, ge=1, le=4096, description="requests scheduled in one iteration")
    max_num_tokens: int = Field(2048, ge=1, le=1_048_576, description="tokens computed in one iteration")
    max_seq_len: int = Field(2048, ge=2, le=10_485_760, description="prompt and output tokens of one request")
    max_input_len: int = Field(2047, ge=1, le=10_485_760, description="prompt tokens of one request")
    max_beam_width: int = Field(1, ge=1, le=1, description="beams of one request; wider beams are not built yet")
    draft: DraftSpec | None = Field(None, description="draft model for speculation; fixes the non-decoupled profile")

    @model_validator(mode="after")
    def _sizes_fit_together(self) -> EngineSpec:
        if self.max_input_len >= self.max_seq_len:
            raise ValueError(
                f"max_input_len is {self.max_input_len}, the limit is max_seq_len - 1 = {self.max_seq_len - 1}:"
                " a prompt needs room for one output token"
            )
        if self.draft is not None and self.target != "tensorrt_llm":
            raise ValueError("a draft model needs target tensorrt_llm: the CPU engine does not speculate yet")
        return self


class PortsSpec(Group):
    """Ports on the loopback address."""

    http: Port = Field(8000, description="Triton HTTP")
    grpc: Port = Field(8001, description="Triton gRPC")
    metrics: Port = Field(8002, description="Triton Prometheus metrics")
    gateway: Port = Field(8080, description="OpenAI-compatible gateway")

    @model_validator(mode="after")
    def _each_its_own(self) -> PortsSpec:
        ports = [self.http, self.grpc, self.metrics, self.gateway]
        if len(set(ports)) != len(ports):
            raise ValueError(f"http, grpc, metrics and gateway must differ, found {ports}")
        return self


class RuntimeSpec(Group):
    """What Triton and the engine read when a model is loaded."""

    ports: PortsSpec | Literal["auto"] = Field(
        default_factory=PortsSpec, description="four ports, or `auto` for four free ones"
    )
    execution: Execution = Field(
        "performance", description="`accuracy`: the CPU engine in float32 without dynamic quantization"
    )
    triton_max_batch_size: int = Field(64, ge=1, le=4096, description="Triton's max_batch_size of every model")
    decoupled: bool = Field(
        default=True, description="streaming profile; false is the profile of draft-target speculation"
    )
    max_queue_delay_microseconds: int = Field(0, ge=0, le=10_000_000, description="Triton's dynamic batching delay")
    max_queue_size: int = Field(
        0, ge=0, le=1_000_000, description="requests waiting for the engine before one is refused; 0: no limit"
    )
    preprocessing_instances: int = Field(1, ge=1, le=64, description="Python processes that tokenize")
    postprocessing_instances: int = Field(
        1, ge=1, le=1, description="one: with two, a stream's responses can overtake each other"
    )
    bls_instances: int = Field(1, ge=1, le=64, description="Python processes that run tensorrt_llm_bls")
    batch_scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] = Field(
        "guaranteed_no_evict", description="TensorRT-LLM's capacity scheduler"
    )
    kv_cache_free_gpu_mem_fraction: float = Field(
        0.9, gt=0, lt=1, description="share of the GPU memory left after weights for the KV cache"
    )
    kv_cache_gib: int = Field(1, ge=1, le=4096, description="memory for the CPU engine's KV cache")
    enable_kv_cache_reuse: bool = Field(default=True, description="reuse the KV blocks of a shared prefix")
    enable_chunked_context: bool = Field(default=True, description="split long prompts over iterations")
    add_special_tokens: bool = Field(
        default=True,
        description="preprocessing adds the tokenizer's own BOS, as upstream does; false where clients send text of a"
        " chat template that begins with one",
    )
    exclude_input_in_output: bool = Field(
        default=True,
        description="a response that is not streamed leaves out the prompt, unless the request says otherwise",
    )
    cancellation_check_period_ms: int = Field(10, ge=1, le=10_000, description="how often cancellations are looked for")
    stats_check_period_ms: int = Field(100, ge=1, le=60_000, description="how often metrics are refreshed")
    startup_timeout_s: int = Field(120, ge=1, le=7200, description="time to the first token of a starting server")
    probe_period_s: int = Field(30, ge=1, le=3600, description="how often the watchdog asks for a token")


class GatewaySpec(Group):
    """Settings of the OpenAI-compatible gateway; it has none yet besides `runtime.ports.gateway`."""


class DeploymentSpec(Group):
    """One deployment, as `deployments/NAME.yaml` says it."""

    name: str = Field(pattern=NAME_PATTERN, description="equals the file's name without `.yaml`")
    description: str = Field("", max_length=2000)
    model: ModelSpec
    quantization: QuantizationSpec = QuantizationSpec()
    engine: EngineSpec
    runtime: RuntimeSpec = Field(default_factory=RuntimeSpec)
    gateway: GatewaySpec = GatewaySpec()

    @model_validator(mode="after")
    def _profile_fits_the_draft(self) -> DeploymentSpec:
        if self.engine.draft is not None:
            self._check_draft_profile(self.engine.draft)
        return self

    def _check_draft_profile(self, draft: DraftSpec) -> None:
        if self.runtime.decoupled:
            raise ValueError(
                "runtime.decoupled is true, engine.draft needs false: speculation runs in the non-decoupled profile"
            )
        if self.runtime.exclude_input_in_output:
            raise ValueError("runtime.exclude_input_in_output is true, engine.draft needs false: prompts are echoed")
        if not self.runtime.enable_kv_cache_reuse:
            raise ValueError("runtime.enable_kv_cache_reuse is false, engine.draft needs true: every step resends ids")
        both = self.runtime.kv_cache_free_gpu_mem_fraction + draft.kv_cache_free_gpu_mem_fraction
        if both >= 1:
            raise ValueError(
                f"the KV fractions of target and draft sum to {both:g}, the limit is below 1: they share the GPUs"
            )
