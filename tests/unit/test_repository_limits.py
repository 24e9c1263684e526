"""Settings with which an engine would not load, or which it would drop: refused before anything is rendered."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipstream.errors import SpecError
from slipstream.repository.models import Locations, plan_models
from tests.unit.repository_fixtures import DEFAULT, DRAFT_GPU, STREAMING_GPU, a_deployment

SETTINGS = "runtime.tensorrt_llm"
TWO_RANKS = ("engine.tp_size=2", "hardware.gpus_per_node=8")
ORCHESTRATED = (*TWO_RANKS, "runtime.launch_mode=orchestrator")
TWO_ON_A_GPU = ("runtime.engine_instances=2", "runtime.kv_cache_free_gpu_mem_fraction=0.4")
LOOKAHEAD = (
    "engine.speculation={mode: lookahead, max_draft_len: %d, lookahead_window_size: %d, lookahead_ngram_size: %d,"
    " lookahead_verification_set_size: %d}"
)

HERE = Locations(
    engine_dir="/e",
    tokenizer_dir="/t",
    draft_engine_dir="/d/e",
    draft_tokenizer_dir="/d/t",
    xgrammar_info="/x.json",
)


def refusal(root: Path, name: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        plan_models(a_deployment(root, name, *overrides), HERE)
    assert caught.value.mend
    return caught.value.message


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("engine.lora.max_lora_rank=64", f"{SETTINGS}.lora_cache_max_adapter_size=8"),
            "is 8, engine.lora.max_lora_rank is 64",
        ),
        (("runtime.engine_instances=2",), "puts 2 engines on one GPU: their shares sum to 1.8"),
        (
            (*ORCHESTRATED, "runtime.engine_instances=3", f"{SETTINGS}.gpu_device_ids='0,1;2,3;1,4'"),
            "puts 2 engines on one GPU",
        ),
        ((f"{SETTINGS}.lora_prefetch_dir=/lora",), "engine.lora is missing"),
        ((f"{SETTINGS}.kv_cache_onboard_blocks=false",), "use_paged_context_fmha true"),
        ((f"{SETTINGS}.max_attention_window_size='4096,0'",), "each is 1 or more"),
        ((f"{SETTINGS}.max_attention_window_size='512,4096'", LOOKAHEAD % (7, 2, 4, 2)), "has 2 sizes, speculation"),
        ((*TWO_RANKS, "runtime.engine_instances=2"), "the second would wait for ever"),
        ((*TWO_RANKS, f"{SETTINGS}.gpu_device_ids='0'"), "instance 0 has 1 GPUs on each of 1 nodes, the engine has 2"),
        ((*TWO_RANKS, f"{SETTINGS}.gpu_device_ids='1,1'"), "names a GPU twice"),
        ((f"{SETTINGS}.gpu_device_ids='1'",), "has GPU 1, hardware.gpus_per_node is 1"),
        ((*TWO_RANKS, f"{SETTINGS}.participant_ids='1,2'"), "runtime.launch_mode is auto"),
        ((*ORCHESTRATED, f"{SETTINGS}.participant_ids='0,1'"), "expected 1,2: rank 0 is the orchestrator"),
        (
            (*ORCHESTRATED, *TWO_ON_A_GPU, f"{SETTINGS}.participant_ids='1,2'"),
            "expected 1,2;3,4: rank 0 is the orchestrator",
        ),
        ((f"{SETTINGS}.num_nodes=2",), "num_nodes is 2, 1 ranks on machines of 1 GPUs need 1"),
        (
            (*ORCHESTRATED, f"{SETTINGS}.participant_ids='1,2'", f"{SETTINGS}.speculative_decoding_fast_logits=true"),
            "engine.draft is missing",
        ),
        ((f"{SETTINGS}.guided_decoding_backend=xgrammar", LOOKAHEAD % (7, 2, 4, 2)), "by one token a step"),
        ((LOOKAHEAD % (8, 2, 1, 0),), "an n-gram of 1 needs window 1"),
        ((LOOKAHEAD % (8, 1, 1, 1),), "an n-gram of 1 needs window 1"),
        ((LOOKAHEAD % (10, 2, 4, 2),), "drafts 11 tokens a step, engine.speculation.max_draft_len is 10"),
    ],
)
def test_what_an_engine_would_refuse_or_drop_is_refused(root: Path, overrides: tuple[str, ...], said: str) -> None:
    assert said in refusal(root, STREAMING_GPU, *overrides)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("runtime.engine_instances=2",), "engine.draft needs 1"),
        ((f"{SETTINGS}.participant_ids='1,2,3,4'",), "expected 5,6,7,8"),
        ((f"{SETTINGS}.guided_decoding_backend=xgrammar",), "guided_decoding_backend is given with speculation"),
        ((f"{SETTINGS}.max_attention_window_size='512,4096'",), "speculation needs one"),
    ],
)
def test_what_draft_target_speculation_does_not_take_is_refused(
    root: Path, overrides: tuple[str, ...], said: str
) -> None:
    assert said in refusal(root, DRAFT_GPU, *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        (f"{SETTINGS}.gpu_device_ids='0'",),
        (*TWO_RANKS, f"{SETTINGS}.gpu_device_ids='6,7'"),
        (*ORCHESTRATED, "runtime.engine_instances=2", f"{SETTINGS}.gpu_device_ids='0,1;2,3'"),
        (*ORCHESTRATED, *TWO_ON_A_GPU, f"{SETTINGS}.participant_ids='1,2;3,4'"),
        (
            "engine.tp_size=2",
            "engine.pp_size=2",
            "hardware.nodes=2",
            "hardware.gpus_per_node=2",
            f"{SETTINGS}.gpu_device_ids='0,1'",
        ),
        TWO_ON_A_GPU,
        (f"{SETTINGS}.max_attention_window_size='512,4096'",),
        (LOOKAHEAD % (11, 2, 4, 2),),
        (LOOKAHEAD % (1, 1, 1, 0),),
        ("engine.lora={}", f"{SETTINGS}.lora_prefetch_dir=/lora"),
        (
            "engine.trtllm_build.use_paged_context_fmha=false",
            "runtime.enable_kv_cache_reuse=false",
            "runtime.enable_chunked_context=false",
            f"{SETTINGS}.kv_cache_onboard_blocks=false",
        ),
    ],
)
def test_what_an_engine_takes_is_planned(root: Path, overrides: tuple[str, ...]) -> None:
    assert plan_models(a_deployment(root, STREAMING_GPU, *overrides), HERE)


def test_guided_decoding_without_the_tokenizers_file_is_refused(root: Path) -> None:
    spec = a_deployment(root, STREAMING_GPU, f"{SETTINGS}.guided_decoding_backend=xgrammar")
    with pytest.raises(SpecError, match="the file with the tokenizer's vocabulary is not named"):
        plan_models(spec, Locations(engine_dir="/e", tokenizer_dir="/t"))


def test_the_embedded_engine_has_no_such_limits(root: Path) -> None:
    assert plan_models(a_deployment(root, DEFAULT), Locations(engine_dir="/e", tokenizer_dir="/t"))
