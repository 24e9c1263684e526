"""What trtllm-build would refuse, or silently take away, is refused before it runs: where, found, limit, mend."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from slipstream.engine.trtllm import CheckpointFacts, check_pair
from slipstream.engine.trtllm.attention import as_built
from slipstream.errors import SpecError
from slipstream.spec import EngineSpec
from slipstream.spec.runtime import RuntimeSpec
from tests.unit.trtllm_fixtures import DRAFT, a_checkpoint, a_plan, an_engine, contract, flags

FLOAT = {"quant_algo": None, "kv_cache_quant_algo": None}
NO_REUSE = RuntimeSpec(enable_kv_cache_reuse=False, enable_chunked_context=False)
LOOKAHEAD = {
    "mode": "lookahead",
    "max_draft_len": 83,
    "lookahead_window_size": 7,
    "lookahead_ngram_size": 7,
    "lookahead_verification_set_size": 7,
}
MEDUSA = {"architecture": "MedusaForCausalLM", "max_draft_len": 63, "is_read": True}
EAGLE = {"architecture": "EagleForCausalLM", "max_draft_len": 63, "num_eagle_layers": 4, "is_read": True}


def refusal(engine: EngineSpec | None = None, facts: CheckpointFacts | None = None, **where: Any) -> str:
    with pytest.raises(SpecError) as caught:
        a_plan(engine, facts, **where)
    assert caught.value.exit_code == 2
    assert caught.value.mend
    return str(caught.value)


def heads(mode: str, **changes: Any) -> EngineSpec:
    return an_engine(speculation={"mode": mode, "max_draft_len": 63, **changes}, checkpoint_dir="/heads")


@pytest.mark.parametrize("changes", [{"tp_size": 2}, {"pp_size": 2}, {"cp_size": 2}])
def test_the_checkpoint_is_cut_as_the_engine_says(changes: dict[str, int]) -> None:
    assert "checkpoint is cut for 2" in refusal(facts=a_checkpoint(**changes))


@pytest.mark.parametrize(
    ("facts", "sm", "said"),
    [
        ({}, 80, "fp8 needs sm_89 or newer, the GPU is sm_80"),
        ({**FLOAT, "kv_cache_quant_algo": "FP8"}, 86, "FP8 KV cache needs sm_89"),
        ({"quant_algo": "NVFP4"}, 90, "nvfp4 needs sm_100"),
        ({**FLOAT, "quant_algo": "W8A16"}, 100, "int8_wo is rejected by TensorRT-LLM on sm_100 to sm_119"),
        ({**FLOAT, "quant_algo": "W4A16_AWQ"}, 103, "int4_awq is rejected"),
        ({"quant_algo": "W4A8_AWQ"}, 100, "w4a8_awq is rejected"),
        ({**FLOAT, "quant_algo": "W8A8_SQ_PER_CHANNEL"}, 100, "int8_sq is rejected"),
        ({**FLOAT, "quant_algo": "W4A16_GPTQ"}, 100, "W4A16_GPTQ is rejected"),
        ({**FLOAT, "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, 100, "FP8_PER_CHANNEL_PER_TOKEN is rejected"),
        ({**FLOAT, "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, 80, "needs sm_89"),
        ({**FLOAT, "quant_algo": "W4A16_MXFP4"}, 90, "needs sm_100"),
        ({**FLOAT, "quant_algo": "W4A16"}, 75, "needs sm_80"),
    ],
)
def test_a_format_that_the_gpu_does_not_run_is_refused(facts: dict[str, Any], sm: int, said: str) -> None:
    found = refusal(facts=a_checkpoint(**facts), sm=sm, runtime=NO_REUSE)
    assert found.startswith("quantization: ")
    assert said in found


def test_a_foreign_fp4_format_is_for_blackwell() -> None:
    assert a_plan(facts=a_checkpoint(**{**FLOAT, "quant_algo": "W4A16_MXFP4"}), sm=100)


def test_an_int8_kv_cache_is_refused_on_blackwell() -> None:
    facts = a_checkpoint(quant_algo=None, kv_cache_quant_algo="INT8")
    assert "INT8 KV cache is rejected" in refusal(facts=facts, sm=100, runtime=NO_REUSE)


def test_the_draft_is_named_where_the_draft_is_meant() -> None:
    engine = an_engine(draft=DRAFT)
    assert refusal(engine, role="draft", sm=80).startswith("engine.draft.quantization: ")


def test_the_gpu_may_be_unknown() -> None:
    assert a_plan(sm=None).command.argv


def test_a_sequence_is_not_longer_than_the_models_context() -> None:
    found = refusal(facts=a_checkpoint(context_tokens=4096))
    assert "engine.max_seq_len is 8192, the target model was made for 4096" in found
    assert "draft reads the same text" in refusal(
        an_engine(draft=DRAFT), a_checkpoint(context_tokens=2048), role="draft"
    )
    assert a_plan(facts=a_checkpoint(context_tokens=8192))


def test_a_prompt_without_chunks_fits_an_iteration() -> None:
    runtime = RuntimeSpec(enable_chunked_context=False)
    long = an_engine(max_num_tokens=4096)
    assert "enable_chunked_context" in refusal(long, runtime=runtime)
    assert a_plan(long, runtime=RuntimeSpec())
    assert a_plan(an_engine(max_num_tokens=8191), runtime=runtime)


LOST = [
    ({"quant_algo": "W4A16_AWQ", "kv_cache_quant_algo": "FP8"}, "FP8 attention needs"),
    ({"quant_algo": None, "kv_cache_quant_algo": "FP8"}, "FP8 attention needs"),
    ({"quant_algo": "FP8", "kv_cache_quant_algo": "INT8"}, "cannot read an INT8 KV cache"),
    ({"quant_algo": None, "kv_cache_quant_algo": "INT8"}, "cannot read an INT8 KV cache"),
]


@pytest.mark.parametrize(("facts", "why"), LOST)
@pytest.mark.parametrize("needed", ["enable_kv_cache_reuse", "enable_chunked_context"])
def test_losing_what_the_runtime_asks_for_is_refused(facts: dict[str, Any], why: str, needed: str) -> None:
    runtime = NO_REUSE.model_copy(update={needed: True})
    found = refusal(an_engine(max_num_tokens=8192), a_checkpoint(**facts), runtime=runtime)
    assert f"runtime.{needed}" in found
    assert why in found
    assert flags(a_plan(facts=a_checkpoint(**facts), runtime=NO_REUSE))["use_paged_context_fmha"] == "disable"


@pytest.mark.parametrize(("facts", "why"), LOST)
def test_without_a_runtime_the_build_option_asks_for_it(facts: dict[str, Any], why: str) -> None:
    assert why in refusal(facts=a_checkpoint(**facts))
    off = an_engine(trtllm_build={"use_paged_context_fmha": False})
    assert flags(a_plan(off, a_checkpoint(**facts)))["use_paged_context_fmha"] == "disable"


def test_speculation_needs_paged_attention_of_both_models() -> None:
    int8 = a_checkpoint(kv_cache_quant_algo="INT8")
    draft = an_engine(draft=DRAFT)
    assert "quantization.kv_cache is INT8 and engine.draft is asked for" in refusal(draft, int8, runtime=NO_REUSE)
    found = refusal(draft, int8, role="draft", runtime=NO_REUSE)
    assert "engine.draft.quantization.kv_cache is INT8" in found
    assert "engine.speculation" in refusal(an_engine(speculation=LOOKAHEAD), int8, runtime=NO_REUSE)


@pytest.mark.parametrize("algo", [None, "FP8", "W4A8_AWQ", "NVFP4", "W4A16_AWQ", "W8A8_SQ_PER_CHANNEL"])
@pytest.mark.parametrize("kv_cache", [None, "FP8", "INT8"])
@pytest.mark.parametrize("sm", [80, 89, 100, None])
@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("fp8", [False, True])
def test_prompt_attention_is_as_the_rules_of_the_reference_leave_it(
    algo: str | None, kv_cache: str | None, sm: int | None, paged: bool, fp8: bool
) -> None:
    built = as_built(a_checkpoint(quant_algo=algo, kv_cache_quant_algo=kv_cache), paged=paged, fp8=fp8, sm=sm)
    wanted_paged, wanted_fp8 = paged, fp8
    if algo not in {"FP8", "W4A8_AWQ", "NVFP4"} or (sm or 90) < 89:
        wanted_fp8 = False
        wanted_paged = paged and kv_cache != "FP8"
    elif paged:
        wanted_fp8 = kv_cache == "FP8"
    if kv_cache == "INT8":
        wanted_paged = False
    assert (built.paged, built.fp8) == (wanted_paged, wanted_fp8)
    assert bool(built.paged_reason) == (built.paged != paged)
    assert bool(built.fp8_reason) == (built.fp8 != fp8)


@pytest.mark.parametrize(
    ("options", "facts", "said"),
    [
        ({"use_fp8_context_fmha": True}, FLOAT, "use_fp8_context_fmha is true"),
        ({"use_fp8_context_fmha": True}, {"kv_cache_quant_algo": None}, "needs an FP8 KV cache, this one is bfloat16"),
        ({"use_fp8_context_fmha": False}, {}, "use_fp8_context_fmha is false"),
        ({"gemm_plugin": "fp8"}, FLOAT, "the weights are bfloat16"),
        ({"gemm_plugin": "nvfp4"}, {}, "the weights are FP8"),
        ({"gemm_plugin": "float16"}, FLOAT, "the model computes in bfloat16"),
        ({"gemm_plugin": "fp8", "low_latency_gemm_plugin": True}, {}, "low_latency_gemm_plugin takes its place"),
        ({"low_latency_gemm_plugin": True}, FLOAT, "it needs FP8 weights"),
        ({"low_latency_gemm_plugin": True, "weight_streaming": True}, {}, "weight_streaming"),
        ({"gemm_swiglu_plugin": True}, {"quant_algo": "W4A8_AWQ"}, "it needs FP8 weights"),
        ({"gemm_swiglu_plugin": True, "use_fused_mlp": False}, {}, "it needs use_fused_mlp"),
        ({"reduce_fusion": True}, {}, "with tp_size 1 there is no all-reduce"),
        ({"user_buffer": True}, {}, "with tp_size 1 there is no all-reduce"),
        ({"pp_reduce_scatter": True}, {}, "it is for MixtralForCausalLM"),
        ({"opt_num_tokens": 8193}, {}, "an iteration has at most 8192"),
    ],
)
def test_an_option_that_the_builder_would_override_is_refused(
    options: dict[str, Any], facts: dict[str, Any], said: str
) -> None:
    found = refusal(an_engine(trtllm_build=options), a_checkpoint(**facts))
    assert "engine.trtllm_build." in found
    assert said in found


@pytest.mark.parametrize(
    ("options", "facts", "said"),
    [
        ({"reduce_fusion": True}, {"architecture": "Qwen2ForCausalLM"}, "Qwen2ForCausalLM has none"),
        ({"user_buffer": True}, {"architecture": "Gemma2ForCausalLM"}, "it is for LlamaForCausalLM in FP8"),
        ({"user_buffer": True}, FLOAT, "it is for LlamaForCausalLM in FP8"),
        ({"user_buffer": True, "gemm_plugin": "disable"}, {}, "it needs the FP8 GEMM plugin"),
        ({"user_buffer": True, "low_latency_gemm_plugin": True}, {}, "it needs the FP8 GEMM plugin"),
        ({"user_buffer": True, "weight_streaming": True}, {}, "it needs the FP8 GEMM plugin"),
    ],
)
def test_fusion_over_gpus_has_its_conditions(options: dict[str, Any], facts: dict[str, Any], said: str) -> None:
    engine = an_engine(tp_size=2, trtllm_build=options)
    assert said in refusal(engine, a_checkpoint(tp_size=2, **facts))


def test_a_user_buffer_of_an_fp8_llama_over_two_gpus_is_built() -> None:
    plan = a_plan(an_engine(tp_size=2, trtllm_build={"user_buffer": True}), a_checkpoint(tp_size=2))
    found = flags(plan)
    assert plan.expected["plugin_config"]["user_buffer"] is True
    assert (found["user_buffer"], found["reduce_fusion"], found["gemm_plugin"]) == ("enable", "enable", "fp8")


@pytest.mark.parametrize(
    ("option", "sm", "said"),
    [
        ("low_latency_gemm_plugin", 100, "trtllm-build raises for it on sm_100"),
        ("gemm_swiglu_plugin", 100, "trtllm-build raises for it on sm_100"),
        ("gemm_swiglu_plugin", 89, "it is for sm_90"),
    ],
)
def test_fp8_plugins_have_their_gpus(option: str, sm: int, said: str) -> None:
    assert said in refusal(an_engine(trtllm_build={option: True}), sm=sm)
    assert flags(a_plan(an_engine(trtllm_build={option: True}), sm=90))[option] == "fp8"


def test_nvfp4_weights_take_their_own_plugin_or_none() -> None:
    nvfp4 = a_checkpoint(quant_algo="NVFP4")
    assert "the builder sets nvfp4" in refusal(an_engine(trtllm_build={"gemm_plugin": "auto"}), nvfp4, sm=100)
    assert a_plan(an_engine(trtllm_build={"gemm_plugin": "disable"}), nvfp4, sm=100)


def test_the_scatter_between_stages_is_mixtrals() -> None:
    engine = an_engine(pp_size=2, trtllm_build={"pp_reduce_scatter": True})
    facts = a_checkpoint(architecture="MixtralForCausalLM", pp_size=2)
    assert flags(a_plan(engine, facts))["pp_reduce_scatter"] == "enable"


@pytest.mark.parametrize("role", ["target", "draft"])
@pytest.mark.parametrize("facts", [{"quant_algo": "W4A8_AWQ"}, {"quant_algo": "W8A16", "kv_cache_quant_algo": None}])
def test_draft_target_is_for_the_formats_of_the_reference(role: str, facts: dict[str, Any]) -> None:
    speculation = contract("triton_models")["models"]["tensorrt_llm_bls"]["speculation"]
    assert "GPU sm>=80; FP16/BF16/FP8" in speculation["engines"]
    assert "is for FP16, BF16 and FP8" in refusal(an_engine(draft=DRAFT), a_checkpoint(**facts), role=role)
    assert a_plan(facts=a_checkpoint(**facts))


def test_draft_target_is_not_for_float32() -> None:
    found = refusal(an_engine(draft=DRAFT), a_checkpoint(**FLOAT, dtype="float32"))
    assert "weights are float32" in found


def test_draft_and_target_speak_one_vocabulary() -> None:
    check_pair(a_checkpoint(), a_checkpoint())
    check_pair(a_checkpoint(), a_checkpoint(vocab_size=None))
    with pytest.raises(SpecError, match="a vocabulary of 32000, model one of 128256"):
        check_pair(a_checkpoint(), a_checkpoint(vocab_size=32000))


def test_padding_apart_a_drafts_tokens_can_be_verified_and_its_logits_cannot() -> None:
    target, draft = a_checkpoint(vocab_size=152064), a_checkpoint(vocab_size=151936)  # Qwen2.5 72B and 0.5B
    check_pair(target, draft)
    check_pair(target, target, use_draft_logits=True)
    for pair in ((target, draft), (draft, target)):
        with pytest.raises(SpecError, match="use_draft_logits is true"):
            check_pair(*pair, use_draft_logits=True)


def test_lookahead_has_room_for_its_draft_tokens() -> None:
    small = LOOKAHEAD | {"max_draft_len": 82}
    assert "need 83" in refusal(an_engine(speculation=small))
    found = flags(a_plan(an_engine(speculation=LOOKAHEAD)))
    assert (found["speculative_decoding_mode"], found["max_draft_len"]) == ("lookahead_decoding", "83")


@pytest.mark.parametrize(
    ("window", "ngram", "verified", "needed"), [(7, 7, 7, 83), (1, 1, 0, 1), (2, 2, 1, 2), (5, 3, 5, 19), (1, 2, 1, 1)]
)
def test_the_draft_tokens_of_lookahead_are_counted_as_upstream_does(
    window: int, ngram: int, verified: int, needed: int
) -> None:
    sizes = {
        "lookahead_window_size": window,
        "lookahead_ngram_size": ngram,
        "lookahead_verification_set_size": verified,
    }
    assert a_plan(an_engine(speculation=LOOKAHEAD | sizes | {"max_draft_len": needed}))
    if needed > 1:
        assert f"need {needed}" in refusal(an_engine(speculation=LOOKAHEAD | sizes | {"max_draft_len": needed - 1}))


@pytest.mark.parametrize(
    ("mode", "facts", "said"),
    [
        ("medusa", {"is_read": True}, "holds LlamaForCausalLM, not MedusaForCausalLM"),
        ("eagle", MEDUSA, "holds MedusaForCausalLM, not EagleForCausalLM"),
        ("medusa", {**MEDUSA, "max_draft_len": 31}, "draft 31"),
        ("eagle", {**EAGLE, "num_eagle_layers": None}, "no num_eagle_layers"),
    ],
)
def test_heads_are_those_of_the_checkpoint(mode: str, facts: dict[str, Any], said: str) -> None:
    assert said in refusal(heads(mode), a_checkpoint(**facts))


@pytest.mark.parametrize(("mode", "facts"), [("medusa", MEDUSA), ("eagle", EAGLE)])
def test_heads_that_fit_are_built(mode: str, facts: dict[str, Any]) -> None:
    found = flags(a_plan(heads(mode), a_checkpoint(**facts)))
    assert (found["speculative_decoding_mode"], found["max_draft_len"]) == (mode, "63")


def test_heads_are_not_compiled_without_being_used() -> None:
    assert "engine.speculation is missing" in refusal(facts=a_checkpoint(**MEDUSA))


def test_adapters_name_their_modules_as_tensorrt_llm_does() -> None:
    found = refusal(an_engine(lora={"target_modules": ["q_proj"]}))
    assert "'q_proj'" in found
    assert "attn_q" in found


@pytest.mark.parametrize(
    "changes",
    [
        {"trtllm_build": {"multiple_profiles": True, "opt_num_tokens": 8}},
        {"trtllm_build": {"weight_streaming": True, "gemm_plugin": "fp8"}},
        {"trtllm_build": {"user_buffer": True, "reduce_fusion": False}},
        {"draft": DRAFT, "trtllm_build": {"gather_context_logits": True}},
        {"draft": DRAFT, "trtllm_build": {"use_paged_context_fmha": False}},
        {"draft": DRAFT, "max_beam_width": 2},
        {"speculation": {"mode": "eagle", "max_draft_len": 63}, "checkpoint_dir": "/heads", "max_batch_size": 513},
    ],
)
def test_what_the_spec_can_see_by_itself_it_refuses(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        an_engine(**changes)
