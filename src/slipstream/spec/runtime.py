"""What Triton and the engine read when a model is loaded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from slipstream.spec.groups import AbsolutePath, Execution, Group, Port

# GPU ids or MPI ranks: the members of an instance by commas, instances by semicolons.
Instances = Annotated[str, Field(pattern=r"^[0-9]+(,[0-9]+)*(;[0-9]+(,[0-9]+)*)*$", max_length=4096)]
Windows = Annotated[str, Field(pattern=r"^[0-9]+(,[0-9]+)*$", max_length=4096)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Bytes = Annotated[int, Field(ge=0, le=1 << 44)]
_INT32_MAX = 2**31 - 1  # the backend takes a larger number for unset


def _yaml_word(value: object) -> object:
    """YAML reads on and off as true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


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


class TensorrtLlmSpec(Group):
    """Parameters of the C++ backend, under its own names; what is left out keeps the backend's default."""

    max_tokens_in_paged_kv_cache: int | None = Field(
        None, ge=1, le=_INT32_MAX, description="KV pool in tokens, beside the fraction"
    )
    max_attention_window_size: Windows | None = Field(None, description="tokens a layer sees, one number a layer")
    kv_cache_host_memory_bytes: Bytes | None = Field(None, description="host memory for KV blocks moved off the GPU")
    kv_cache_onboard_blocks: bool | None = Field(None, description="moved blocks come back before they are reused")
    normalize_log_probs: bool | None = Field(None, description="log probabilities divided by the length")
    gpu_device_ids: Instances | None = Field(None, description="GPUs of each instance: `0,1;2,3`; orchestrator mode")
    participant_ids: Instances | None = Field(None, description="MPI ranks of each instance; orchestrator, no spawning")
    num_nodes: int | None = Field(None, ge=1, le=64, description="machines of the model")
    lora_cache_optimal_adapter_size: int | None = Field(
        None, ge=1, le=512, description="rank that the LoRA cache is paged for"
    )
    lora_cache_max_adapter_size: int | None = Field(
        None, ge=1, le=512, description="largest rank that fits the LoRA cache"
    )
    lora_cache_gpu_memory_fraction: Fraction | None = Field(None, description="of the free GPU memory, for LoRA")
    lora_cache_host_memory_bytes: Bytes | None = Field(None, description="host memory for LoRA weights")
    lora_prefetch_dir: AbsolutePath | None = Field(None, description="LoRA weights that are loaded at the start")
    decoding_mode: Literal["top_k", "top_p", "top_k_top_p", "beam_search"] | None = Field(
        None, description="sampling; speculation sets its own"
    )
    guided_decoding_backend: Literal["xgrammar"] | None = Field(None, description="JSON schema, regex and grammar")
    gpu_weights_percent: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="weights on the GPU; below 1 needs engine.trtllm_build.weight_streaming"
    )
    enable_context_fmha_fp32_acc: bool | None = Field(None, description="prompt attention accumulates in FP32")
    multi_block_mode: bool | None = Field(None, description="several blocks a sequence in generation attention")
    cuda_graph_mode: bool | None = Field(None, description="CUDA graphs for generation")
    cuda_graph_cache_size: int | None = Field(None, ge=0, le=100_000, description="graphs that are kept")
    iter_stats_max_iterations: int | None = Field(
        None, ge=0, le=_INT32_MAX, description="iterations whose statistics are kept"
    )
    request_stats_max_iterations: int | None = Field(
        None, ge=0, le=_INT32_MAX, description="iterations of request statistics kept"
    )
    speculative_decoding_fast_logits: bool | None = Field(
        None, description="draft logits from GPU to GPU; orchestrator mode without spawning"
    )
    recv_poll_period_ms: int | None = Field(None, ge=0, le=60_000, description="how often the orchestrator polls")

    @model_validator(mode="after")
    def _parameters_fit_together(self) -> TensorrtLlmSpec:
        if self.cuda_graph_cache_size and self.cuda_graph_mode is not True:
            raise ValueError("cuda_graph_cache_size is given, cuda_graph_mode is not true: no graph would be kept")
        if self.speculative_decoding_fast_logits and self.participant_ids is None:
            raise ValueError(
                "speculative_decoding_fast_logits is true and participant_ids missing: the backend switches it off"
                " unless an orchestrator runs without spawning"
            )
        return self


class LlmApiSpec(Group):
    """Arguments of TensorRT-LLM's `LLM(...)` that `model.yaml` carries for target `llmapi`."""

    backend: Literal["pytorch"] = "pytorch"
    enable_chunked_prefill: bool = Field(default=True, description="split long prompts over iterations")
    cuda_graph: bool = Field(default=True, description="CUDA graphs for generation")
    disable_overlap_scheduler: bool = Field(default=False, description="schedule an iteration after the one before")
    trust_remote_code: bool = Field(default=False, description="run Python code that comes with the checkpoint")


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
    container_image: str | None = Field(
        None,
        pattern=r"^[a-z0-9][\w./:@-]*$",
        max_length=512,
        description="what serves on GPUs: NVIDIA's image with Slipstream beside, as docker/Dockerfile.triton makes it;"
        " null: NVIDIA's as it is pinned",
    )
    launch_mode: Literal["auto", "leader", "orchestrator"] = Field(
        "auto", description="how ranks start: `auto` and `leader`, one tritonserver a rank by mpirun; `orchestrator`"
    )
    max_queue_delay_microseconds: int = Field(0, ge=0, le=10_000_000, description="Triton's dynamic batching delay")
    max_queue_size: int = Field(
        0, ge=0, le=1_000_000, description="requests waiting for the engine before one is refused; 0: no limit"
    )
    default_queue_timeout_microseconds: int = Field(
        0, ge=0, le=86_400_000_000, description="how long a request may wait in Triton's queue; 0: for ever"
    )
    queue_timeout_action: Literal["REJECT", "DELAY"] = Field("REJECT", description="what then becomes of it")
    allow_queue_timeout_override: bool = Field(default=False, description="a request may ask for a shorter timeout")
    preprocessing_instances: int = Field(1, ge=1, le=64, description="Python processes that tokenize")
    engine_instances: int = Field(
        1, ge=1, le=16, description="copies of the engine; each loads its weights, gpu_device_ids says where"
    )
    postprocessing_instances: int = Field(
        1, ge=1, le=1, description="one: with two, a stream's responses can overtake each other"
    )
    bls_instances: int = Field(
        1,
        ge=1,
        le=64,
        description="Python processes that run tensorrt_llm_bls: each serves one request at a time, or any number of"
        " them before the CPU engine without a draft",
    )
    batch_scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] = Field(
        "guaranteed_no_evict", description="TensorRT-LLM's capacity scheduler"
    )
    kv_cache_free_gpu_mem_fraction: float = Field(
        0.9, gt=0, lt=1, description="share of the GPU memory left after weights for the KV cache"
    )
    kv_cache_gib: int = Field(1, ge=1, le=4096, description="memory for the CPU engine's KV cache")
    kv_cache_tokens: int | None = Field(
        None,
        ge=32,
        le=_INT32_MAX,
        description="tokens in the CPU engine's KV cache; null: as many as kv_cache_gib holds",
    )
    enable_kv_cache_reuse: bool = Field(default=True, description="reuse the KV blocks of a shared prefix")
    enable_chunked_context: bool = Field(default=True, description="split long prompts over iterations")
    prefill_chunk_tokens: int = Field(
        256,
        ge=32,
        le=65536,
        description="tokens of prompts that the CPU engine reads in one step beside running streams",
    )
    add_special_tokens: bool = Field(
        default=True,
        description="preprocessing adds the tokenizer's own BOS, as upstream does; false where clients send text of a"
        " chat template that begins with one",
    )
    skip_special_tokens: bool = Field(default=True, description="special tokens are left out of the text")
    accumulate_tokens: bool = Field(
        default=False, description="tensorrt_llm_bls sends all text so far with each response, not the new piece"
    )
    exclude_input_in_output: bool = Field(
        default=True,
        description="a response that is not streamed leaves out the prompt, unless the request says otherwise",
    )
    cancellation_check_period_ms: int = Field(10, ge=1, le=10_000, description="how often cancellations are looked for")
    stream_interval: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        1,
        description="tokens in a streamed response of the CPU engine; the first comes at once; auto: one for every 8"
        " streams that a step brings tokens for, from 1 up to 8",
    )
    speculation: Annotated[Literal["auto", "on", "off"], BeforeValidator(_yaml_word)] = Field(
        "auto",
        description="what of the CPU engine's engine.speculation a request gets that does not say: `auto`, while it is"
        " measured to be faster",
    )
    stats_check_period_ms: int = Field(100, ge=1, le=60_000, description="how often metrics are refreshed")
    request_timeout_s: int = Field(
        0,
        ge=0,
        le=86_400,
        description="how long a request to the CPU engine may take, waiting and running; 0: no limit",
    )
    step_timeout_s: int = Field(
        30, ge=1, le=3600, description="silence after which the CPU engine's process is replaced while requests run"
    )
    startup_timeout_s: int = Field(120, ge=1, le=7200, description="time to the first token of a starting server")
    probe_period_s: int = Field(30, ge=1, le=3600, description="how often the watchdog asks for a token")
    tensorrt_llm: TensorrtLlmSpec = Field(default_factory=TensorrtLlmSpec)
    llmapi: LlmApiSpec = Field(default_factory=LlmApiSpec)

    @model_validator(mode="after")
    def _instances_have_gpus(self) -> RuntimeSpec:
        ids = self.tensorrt_llm.gpu_device_ids
        if ids is None:
            return self
        instances = ids.count(";") + 1
        if instances != self.engine_instances:
            raise ValueError(
                f"tensorrt_llm.gpu_device_ids has {instances} instances, engine_instances is {self.engine_instances}"
            )
        if self.launch_mode != "orchestrator" and instances > 1:
            raise ValueError(
                f"tensorrt_llm.gpu_device_ids spreads {instances} instances over GPUs, which needs launch_mode"
                f" orchestrator, found {self.launch_mode}"
            )
        return self
