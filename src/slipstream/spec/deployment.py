"""One deployment, and the rules that hold between its groups."""

from __future__ import annotations

from pydantic import Field, model_validator

from slipstream.spec.engine import DraftSpec, EngineSpec
from slipstream.spec.gateway import GatewaySpec
from slipstream.spec.groups import Group, HardwareSpec, ModelSpec, QuantizationSpec
from slipstream.spec.runtime import LlmApiSpec, RuntimeSpec, TensorrtLlmSpec

# A deployment's name becomes a directory, a model label and, later, a Kubernetes object name.
NAME_PATTERN = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"


# Fields of `runtime` that the CPU engine alone reads.
_OF_THE_CPU_ENGINE = ("kv_cache_tokens", "prefill_chunk_tokens", "request_timeout_s", "step_timeout_s")


class DeploymentSpec(Group):
    """One deployment, as `deployments/NAME.yaml` says it."""

    name: str = Field(pattern=NAME_PATTERN, description="equals the file's name without `.yaml`")
    description: str = Field("", max_length=2000)
    model: ModelSpec
    quantization: QuantizationSpec = QuantizationSpec()
    engine: EngineSpec
    runtime: RuntimeSpec = Field(default_factory=RuntimeSpec)
    gateway: GatewaySpec = GatewaySpec()
    hardware: HardwareSpec | None = Field(None, description="the GPUs; memory and formats are checked against them")

    @property
    def is_orchestrated(self) -> bool:
        """Whether one process speaks for all ranks: on demand, and for two engines that both have several ranks."""
        mode, engine = self.runtime.launch_mode, self.engine
        if engine.target != "tensorrt_llm":
            return False
        return mode == "orchestrator" or (mode == "auto" and engine.draft is not None and engine.world_size > 1)

    @model_validator(mode="after")
    def _runtime_fits_the_target(self) -> DeploymentSpec:
        target, runtime = self.engine.target, self.runtime
        if target != "tensorrt_llm" and runtime.tensorrt_llm != TensorrtLlmSpec():
            raise ValueError(f"runtime.tensorrt_llm has parameters of the C++ backend, engine.target is {target}")
        if target != "llmapi" and runtime.llmapi != LlmApiSpec():
            raise ValueError(f"runtime.llmapi has arguments of the LLM API, engine.target is {target}")
        if target != "openvino" and runtime.stream_interval != 1:
            raise ValueError(
                f"runtime.stream_interval is {runtime.stream_interval}, target {target} sends each token by itself"
            )
        if runtime.speculation != "auto" and (target != "openvino" or self.engine.speculation is None):
            raise ValueError(
                f"runtime.speculation is {runtime.speculation}, it is for engine.speculation of target openvino"
            )
        if target != "openvino" and (name := _given(runtime, _OF_THE_CPU_ENGINE)):
            raise ValueError(f"runtime.{name} is {getattr(runtime, name)}, target {target} has no such setting")
        if target == "openvino" and runtime.engine_instances > 1:
            raise ValueError(
                f"runtime.engine_instances is {runtime.engine_instances}, the CPU engine runs one: it uses all cores"
            )
        return self

    @model_validator(mode="after")
    def _runtime_fits_the_engine(self) -> DeploymentSpec:
        build, runtime = self.engine.trtllm_build, self.runtime
        for name in ("enable_kv_cache_reuse", "enable_chunked_context"):
            if not build.use_paged_context_fmha and getattr(runtime, name):
                raise ValueError(
                    f"runtime.{name} is true, it needs engine.trtllm_build.use_paged_context_fmha, which is false"
                )
        percent = runtime.tensorrt_llm.gpu_weights_percent
        if percent is not None and percent < 1 and not build.weight_streaming:
            raise ValueError(
                f"runtime.tensorrt_llm.gpu_weights_percent is {percent:g}, below 1 it needs"
                " engine.trtllm_build.weight_streaming true"
            )
        return self

    @model_validator(mode="after")
    def _decoding_fits_the_engine(self) -> DeploymentSpec:
        mode, beams = self.runtime.tensorrt_llm.decoding_mode, self.engine.max_beam_width
        if mode is not None and (self.engine.draft or self.engine.speculation):
            raise ValueError(f"runtime.tensorrt_llm.decoding_mode is {mode}, speculation needs it left out")
        if mode == "beam_search" and beams == 1:
            raise ValueError("runtime.tensorrt_llm.decoding_mode is beam_search, engine.max_beam_width is 1")
        if mode in {"top_k", "top_p", "top_k_top_p"} and beams > 1:
            raise ValueError(f"runtime.tensorrt_llm.decoding_mode is {mode}, engine.max_beam_width is {beams}: needs 1")
        return self

    @model_validator(mode="after")
    def _launch_fits_the_hardware(self) -> DeploymentSpec:
        hardware, engine = self.hardware, self.engine
        if hardware is None:
            return self
        if self.runtime.launch_mode == "orchestrator" and hardware.nodes > 1:
            raise ValueError(
                f"runtime.launch_mode is orchestrator, hardware.nodes {hardware.nodes}: it runs on one node"
            )
        if engine.world_size > hardware.gpus_per_node * hardware.nodes:
            raise ValueError(
                f"engine.tp_size x pp_size is {engine.world_size}, hardware has"
                f" {hardware.nodes} x {hardware.gpus_per_node} GPUs"
            )
        return self

    @model_validator(mode="after")
    def _profile_fits_the_draft(self) -> DeploymentSpec:
        if self.engine.draft is not None and self.engine.target != "llmapi":
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
        if self.engine.max_input_len < self.engine.max_seq_len - 1:
            raise ValueError(
                f"engine.max_input_len is {self.engine.max_input_len}, engine.draft needs max_seq_len - 1 ="
                f" {self.engine.max_seq_len - 1}: every step of speculation sends all tokens so far as a prompt"
            )
        if self.engine.target == "tensorrt_llm":
            self._check_draft_memory(draft)

    def _check_draft_memory(self, draft: DraftSpec) -> None:
        both = self.runtime.kv_cache_free_gpu_mem_fraction + draft.kv_cache_free_gpu_mem_fraction
        if both >= 1:
            raise ValueError(
                f"the KV fractions of target and draft sum to {both:g}, the limit is below 1: they share the GPUs"
            )


def _given(runtime: RuntimeSpec, names: tuple[str, ...]) -> str | None:
    """The first of `names` that differs from its default."""
    return next((name for name in names if getattr(runtime, name) != getattr(RuntimeSpec(), name)), None)
