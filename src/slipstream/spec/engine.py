"""What is compiled into the engine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from slipstream.spec.groups import AbsolutePath, Group, ModelSpec, QuantizationSpec, Target

Plugin = Literal["auto", "float16", "bfloat16", "float32", "fp8", "nvfp4", "disable"]
SpeculationMode = Literal["lookahead", "medusa", "eagle", "ngram", "eagle3", "draft_target"]
Tree = Annotated[str, Field(pattern=r"^\{[0-9]+(,[0-9]+)*\}(,\{[0-9]+(,[0-9]+)*\})*$", max_length=65536)]

# Beams share a prompt's KV blocks and have their own behind it: 16 of 2,048 tokens fill a third of the 1 GiB that a
# cache has by default, on the bundled model.
_CPU_BEAM_WIDTH = 16
# EAGLE's limits are the builder's own: TensorRT-LLM 1.2, `trtllm-build` rules.
_EAGLE_MAX_BATCH, _EAGLE_MAX_DRAFT = 512, 256
# Which target runs which way of speculating without a draft model.
_MODES_OF: dict[Target, tuple[SpeculationMode, ...]] = {
    "tensorrt_llm": ("lookahead", "medusa", "eagle"),
    "llmapi": ("ngram", "eagle3"),
    "openvino": ("ngram", "draft_target"),
}


class DraftSpec(Group):
    """The draft model of draft-target speculation; it shares the target's tensor and pipeline parallelism."""

    model: ModelSpec
    quantization: QuantizationSpec = QuantizationSpec()
    max_draft_len: int = Field(5, ge=1, le=64, description="draft tokens that the target verifies in one step")
    kv_cache_free_gpu_mem_fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share of the GPU memory left after weights for the draft's KV cache; on the CPU each of the two"
        " engines has runtime.kv_cache_gib",
    )
    use_draft_logits: bool = Field(
        default=False,
        description="verify against the draft's logits instead of its tokens",
    )


class SpeculationSpec(Group):
    """Speculation inside the engine: heads in the checkpoint, n-grams of the text, or a draft model beside it."""

    mode: SpeculationMode
    max_draft_len: int = Field(ge=1, le=256, description="draft tokens that are verified in one step")
    lookahead_window_size: int | None = Field(None, ge=1, le=64, description="lookahead: W")
    lookahead_ngram_size: int | None = Field(None, ge=1, le=64, description="lookahead: N")
    lookahead_verification_set_size: int | None = Field(None, ge=0, le=64, description="lookahead: G")
    medusa_choices: Tree | None = Field(None, description="Medusa's tree, `{0},{0,0},{1}`")
    eagle_choices: Tree | None = Field(None, description="EAGLE's tree, `{0},{0,0},{1}`")
    speculative_model: str | None = Field(
        None,
        max_length=4096,
        description="eagle3: hub id or directory of the heads; draft_target: source of the draft, as model.source",
    )

    @model_validator(mode="after")
    def _fields_fit_the_mode(self) -> SpeculationSpec:
        lookahead = ("lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size")
        of_mode = {
            "lookahead": lookahead,
            "medusa": ("medusa_choices",),
            "eagle": ("eagle_choices",),
            "eagle3": ("speculative_model",),
            "draft_target": ("speculative_model",),
        }.get(self.mode, ())
        optional = {"medusa_choices", "eagle_choices"}
        for name in (*lookahead, *optional, "speculative_model"):
            given = getattr(self, name) is not None
            if given and name not in of_mode:
                raise ValueError(f"{name} is given, mode {self.mode} has no such setting")
            if not given and name in of_mode and name not in optional:
                raise ValueError(f"{name} is missing: mode {self.mode} needs {' and '.join(of_mode)}")
        return self


class LoraSpec(Group):
    """LoRA adapters that requests may name by task id."""

    target_modules: tuple[str, ...] = Field(
        ("attn_qkv",),
        min_length=1,
        strict=False,
        description="TensorRT-LLM's module names: attn_qkv, mlp_gate, …",
    )
    max_lora_rank: int = Field(64, ge=1, le=512, description="largest rank of an adapter")
    lora_dirs: tuple[AbsolutePath, ...] = Field((), strict=False, description="adapters packed beside the engine")
    lora_ckpt_source: Literal["hf", "nemo"] = "hf"


class TrtllmBuildSpec(Group):
    """Options of `trtllm-build` that are not sizes; what is left out is derived, and the reason is printed."""

    opt_num_tokens: int | None = Field(None, ge=1, le=1_048_576, description="tokens a profile is tuned for")
    multiple_profiles: bool = Field(default=False, description="several TensorRT profiles: slow build, fast kernels")
    tokens_per_block: Literal[8, 16, 32, 64, 128] = Field(32, description="tokens of a KV block")
    use_paged_context_fmha: bool = Field(default=True, description="needed by KV reuse, chunked context, draft-target")
    use_fp8_context_fmha: bool | None = Field(None, description="FP8 attention of prompts; derived from the formats")
    gemm_plugin: Plugin | None = Field(None, description="cuBLASLt GEMM; derived from the weights' format")
    low_latency_gemm_plugin: bool = Field(default=False, description="FP8 GEMM for small batches, in place of cuBLASLt")
    gemm_swiglu_plugin: bool = Field(default=False, description="FP8 fused MLP of Hopper")
    reduce_fusion: bool | None = Field(None, description="all-reduce and norm in one; derived from family and TP")
    user_buffer: bool = Field(default=False, description="fewer copies around all-reduce; FP8 Llama with reduce_fusion")
    use_fused_mlp: bool = Field(default=True, description="gate and up projection in one GEMM")
    pp_reduce_scatter: bool = Field(default=False, description="between pipeline stages; Mixtral only")
    gather_context_logits: bool = Field(default=False, description="for return_context_logits")
    max_prompt_embedding_table_size: int = Field(0, ge=0, le=1_048_576, description="prompt tuning: rows; 0: none")
    weight_streaming: bool = Field(default=False, description="weights partly in host memory; see gpu_weights_percent")
    logits_dtype: Literal["float32"] = Field("float32", description="as the Triton models declare their logits")
    workers: int | None = Field(None, ge=1, le=64, description="ranks that are built at once; derived from the GPUs")

    @model_validator(mode="after")
    def _options_fit_together(self) -> TrtllmBuildSpec:
        if self.multiple_profiles and self.opt_num_tokens is not None:
            raise ValueError(
                f"opt_num_tokens is {self.opt_num_tokens} and multiple_profiles true: trtllm-build refuses the pair,"
                " leave one of them out"
            )
        if self.weight_streaming and self.gemm_plugin not in {None, "disable"}:
            raise ValueError(f"gemm_plugin is {self.gemm_plugin}: weight_streaming needs it to be disable")
        if self.user_buffer and self.reduce_fusion is False:
            raise ValueError("user_buffer is true and reduce_fusion false: user_buffer needs reduce_fusion")
        return self


class EngineSpec(Group):
    """What is compiled into the engine."""

    target: Target = Field(
        description="`openvino`: CPU, embedded; `tensorrt_llm`: GPU, trtllm-build; `llmapi`: GPU, no engine"
    )
    tp_size: int = Field(1, ge=1, le=64, description="tensor-parallel ranks")
    pp_size: int = Field(1, ge=1, le=64, description="pipeline-parallel ranks")
    moe_ep_size: int = Field(
        1, ge=1, le=64, description="of the tp_size ranks, so many groups hold different experts; 1: each expert is cut"
    )
    max_batch_size: int = Field(32, ge=1, le=4096, description="requests scheduled in one iteration")
    max_num_tokens: int = Field(2048, ge=1, le=1_048_576, description="tokens computed in one iteration")
    max_seq_len: int = Field(2048, ge=2, le=10_485_760, description="prompt and output tokens of one request")
    max_input_len: int = Field(2047, ge=1, le=10_485_760, description="prompt tokens of one request")
    max_beam_width: int = Field(
        1, ge=1, le=256, description="beams of one request; left out, 16 with target openvino; 1 with llmapi"
    )
    draft: DraftSpec | None = Field(None, description="draft model for speculation; fixes the non-decoupled profile")
    speculation: SpeculationSpec | None = Field(None, description="speculation without a draft model")
    lora: LoraSpec | None = Field(None, description="LoRA adapters")
    checkpoint_dir: AbsolutePath | None = Field(
        None,
        description="a TensorRT-LLM checkpoint made elsewhere, compiled as it is: Medusa and EAGLE heads come from"
        " TensorRT-LLM's own convert_checkpoint.py",
    )
    trtllm_build: TrtllmBuildSpec = Field(default_factory=TrtllmBuildSpec)

    @property
    def world_size(self) -> int:
        """Ranks, and so GPUs, of one instance."""
        return self.tp_size * self.pp_size

    @property
    def has_draft_model(self) -> bool:
        """Whether a second model is built: `draft`, or the one of `speculation` inside the CPU engine."""
        return self.draft is not None or (self.speculation is not None and self.speculation.mode == "draft_target")

    @model_validator(mode="before")
    @classmethod
    def _beams_where_nothing_is_compiled_for_them(cls, settings: Any) -> Any:
        if not isinstance(settings, dict) or settings.get("target") != "openvino":
            return settings
        if settings.get("draft") is not None or settings.get("speculation") is not None:
            return settings
        max_num_tokens = settings.get("max_num_tokens", _CPU_BEAM_WIDTH)
        most = max(1, max_num_tokens) if isinstance(max_num_tokens, int) else 1
        return {"max_beam_width": min(_CPU_BEAM_WIDTH, most), **settings}

    @model_validator(mode="after")
    def _sizes_fit_together(self) -> EngineSpec:
        if self.max_input_len >= self.max_seq_len:
            raise ValueError(
                f"max_input_len is {self.max_input_len}, the limit is max_seq_len - 1 = {self.max_seq_len - 1}:"
                " a prompt needs room for one output token"
            )
        return self

    @model_validator(mode="after")
    def _settings_fit_the_target(self) -> EngineSpec:
        target = self.target
        if target == "openvino":
            for name, given in (
                ("lora", self.lora is not None),
                ("checkpoint_dir", self.checkpoint_dir is not None),
            ):
                if given:
                    raise ValueError(f"{name} needs target tensorrt_llm: the CPU engine does not have it yet")
            if self.max_beam_width > self.max_num_tokens:
                raise ValueError(
                    f"max_beam_width is {self.max_beam_width}, the limit is max_num_tokens = {self.max_num_tokens}:"
                    " a step computes a token of each beam"
                )
        if target == "llmapi" and self.checkpoint_dir is not None:
            raise ValueError("checkpoint_dir is a TensorRT-LLM checkpoint, target llmapi reads a Hugging Face one")
        if target == "llmapi" and self.max_beam_width > 1:
            raise ValueError(f"max_beam_width is {self.max_beam_width}: beams need target tensorrt_llm")
        if target != "tensorrt_llm" and self.trtllm_build != TrtllmBuildSpec():
            raise ValueError(f"trtllm_build has options of trtllm-build, target {target} does not run it")
        return self

    @model_validator(mode="after")
    def _speculation_fits(self) -> EngineSpec:
        if self.draft is not None and self.speculation is not None:
            raise ValueError("draft and speculation are given: an engine speculates in one way, leave one out")
        if self.speculation is None and self.draft is None:
            return self
        if self.max_beam_width > 1:
            raise ValueError(f"max_beam_width is {self.max_beam_width}, speculation needs 1")
        if self.trtllm_build.gather_context_logits:
            raise ValueError("trtllm_build.gather_context_logits is true: trtllm-build refuses it with draft tokens")
        if not self.trtllm_build.use_paged_context_fmha:
            raise ValueError("trtllm_build.use_paged_context_fmha is false, speculation needs it")
        if self.speculation is not None:
            self._check_mode(self.speculation)
        return self

    def _check_mode(self, speculation: SpeculationSpec) -> None:
        mode, known = speculation.mode, _MODES_OF[self.target]
        if mode not in known:
            homes = [target for target, modes in _MODES_OF.items() if mode in modes]
            raise ValueError(f"speculation.mode is {mode}: it needs target {' or '.join(homes)}, found {self.target}")
        if mode in {"medusa", "eagle"} and self.checkpoint_dir is None:
            raise ValueError(
                f"speculation.mode is {mode} and checkpoint_dir missing: the heads come in a checkpoint that"
                " TensorRT-LLM's convert_checkpoint.py made"
            )
        if mode == "eagle" and (self.max_batch_size > _EAGLE_MAX_BATCH or speculation.max_draft_len > _EAGLE_MAX_DRAFT):
            raise ValueError(
                f"max_batch_size is {self.max_batch_size}, EAGLE's limit is {_EAGLE_MAX_BATCH}"
                f" (and {_EAGLE_MAX_DRAFT} draft tokens)"
            )
