"""Settings with which the engines of TensorRT-LLM 1.2.1 would not load, or which they would drop without a word.

What two fields of the spec forbid each other is a rule of the spec; here is what follows from the C++ backend's own
checks: triton_backend/inflight_batcher_llm/src/model_instance_state.cc (@0c8de69a1ca6), and, in cpp/tensorrt_llm,
executor/executorImpl.cpp (@036a60f7ff92), executor/decodingConfig.cpp (@0371ba0f36bc), runtime/worldConfig.cpp
(@06c0e9b1ec38), batch_manager/{trtGptModelInflightBatching.cpp (@00825c4ee813), guidedDecoder.cpp (@000a01de66f0)}.
"""

from __future__ import annotations

from slipstream.errors import SpecError
from slipstream.repository.model_plan import Locations
from slipstream.repository.ranks import as_text, groups, nodes_of, target_ranks
from slipstream.spec import DeploymentSpec, SpeculationSpec

_FIELDS = "runtime.tensorrt_llm"


def check_settings(spec: DeploymentSpec, locations: Locations) -> None:
    """Raise SpecError at the first setting that a GPU engine would refuse or ignore."""
    _check_lora(spec)
    _check_kv_cache(spec)
    _check_instances(spec)
    _check_gpus(spec)
    _check_shares(spec)
    _check_ranks(spec)
    _check_nodes(spec)
    _check_draft(spec)
    _check_guided(spec, locations)
    if spec.engine.speculation is not None and spec.engine.speculation.mode == "lookahead":
        _check_lookahead(spec.engine.speculation)


def _check_lora(spec: DeploymentSpec) -> None:
    settings, lora = spec.runtime.tensorrt_llm, spec.engine.lora
    for name, given in settings.model_dump(exclude_none=True).items():
        if name.startswith("lora_") and lora is None:
            raise SpecError(
                f"{_FIELDS}.{name} is {given}, engine.lora is missing: the engine takes no adapter",
                mend="give engine.lora, or leave it out",
            )
    largest = settings.lora_cache_max_adapter_size
    if lora is not None and largest is not None and largest < lora.max_lora_rank:
        raise SpecError(
            f"{_FIELDS}.lora_cache_max_adapter_size is {largest}, engine.lora.max_lora_rank is {lora.max_lora_rank}:"
            " the cache would refuse adapters that the engine takes",
            mend="leave lora_cache_max_adapter_size out",
        )


def _check_kv_cache(spec: DeploymentSpec) -> None:
    settings = spec.runtime.tensorrt_llm
    if settings.kv_cache_onboard_blocks is False and spec.engine.trtllm_build.use_paged_context_fmha:
        raise SpecError(
            f"{_FIELDS}.kv_cache_onboard_blocks is false, engine.trtllm_build.use_paged_context_fmha true: such an"
            " engine does not load",
            mend="leave kv_cache_onboard_blocks out",
        )
    windows = set(groups(settings.max_attention_window_size)[0]) if settings.max_attention_window_size else set()
    if 0 in windows:
        raise SpecError(
            f"{_FIELDS}.max_attention_window_size is {settings.max_attention_window_size}, each is 1 or more",
            mend="name max_seq_len for a layer that sees everything",
        )
    if len(windows) > 1 and (spec.engine.draft or spec.engine.speculation):
        raise SpecError(
            f"{_FIELDS}.max_attention_window_size has {len(windows)} sizes, speculation needs one: rejected tokens are"
            " taken back out of the KV cache",
            mend="give one size, or leave speculation out",
        )


def _check_instances(spec: DeploymentSpec) -> None:
    count, ranks = spec.runtime.engine_instances, spec.engine.world_size
    if count == 1:
        return
    if ranks > 1 and not spec.is_orchestrated:
        raise SpecError(
            f"runtime.engine_instances is {count} with {ranks} ranks each and runtime.launch_mode"
            f" {spec.runtime.launch_mode}: the first instance keeps every rank, the second would wait for ever",
            mend="set runtime.launch_mode to orchestrator, or run one server an instance",
        )
    if spec.engine.draft is not None:
        raise SpecError(
            f"runtime.engine_instances is {count}, engine.draft needs 1: each step of speculation relies on the KV"
            " blocks of the step before",
            mend="set runtime.engine_instances to 1, or leave engine.draft out",
        )


def _check_gpus(spec: DeploymentSpec) -> None:
    text, ranks = spec.runtime.tensorrt_llm.gpu_device_ids, spec.engine.world_size
    nodes = spec.runtime.tensorrt_llm.num_nodes or nodes_of(spec)
    limit = spec.hardware.gpus_per_node if spec.hardware else None
    for number, members in enumerate(groups(text)):
        where = f"{_FIELDS}.gpu_device_ids is {text}: instance {number}"
        if len(members) * nodes != ranks:
            raise SpecError(
                f"{where} has {len(members)} GPUs on each of {nodes} nodes, the engine has {ranks} ranks",
                mend=f"name {ranks // nodes} GPUs an instance",
            )
        if len(set(members)) != len(members):
            raise SpecError(f"{where} names a GPU twice: a rank has one of its own", mend="name each GPU once")
        if limit is not None and max(members) >= limit:
            raise SpecError(
                f"{where} has GPU {max(members)}, hardware.gpus_per_node is {limit}: ids go from 0 to {limit - 1}",
                mend="name GPUs that are there",
            )


def _check_shares(spec: DeploymentSpec) -> None:
    """Instances on one GPU share what is free of it."""
    named = groups(spec.runtime.tensorrt_llm.gpu_device_ids)
    count, fraction = spec.runtime.engine_instances, spec.runtime.kv_cache_free_gpu_mem_fraction
    most = max((sum(gpu in members for members in named) for members in named for gpu in members), default=count)
    if most > 1 and most * fraction >= 1:
        raise SpecError(
            f"runtime.kv_cache_free_gpu_mem_fraction is {fraction:g}, runtime.engine_instances puts {most} engines on"
            f" one GPU: their shares sum to {most * fraction:g}, the limit is below 1",
            mend=f"set it below {1 / most:.3g}, or give each instance GPUs of its own in {_FIELDS}.gpu_device_ids",
        )


def _check_ranks(spec: DeploymentSpec) -> None:
    text, wanted = spec.runtime.tensorrt_llm.participant_ids, as_text(target_ranks(spec))
    if text is None:
        return
    if not spec.is_orchestrated:
        raise SpecError(
            f"{_FIELDS}.participant_ids is {text}, runtime.launch_mode is {spec.runtime.launch_mode}: ranks are named"
            " to an orchestrator that does not spawn them",
            mend="set runtime.launch_mode to orchestrator, or leave participant_ids out",
        )
    if text != wanted:
        after = ", the draft has the ranks before" if spec.engine.draft else ""
        raise SpecError(
            f"{_FIELDS}.participant_ids is {text}, expected {wanted}: rank 0 is the orchestrator{after}",
            mend=f'set it to "{wanted}", or leave it out to let the orchestrator spawn the ranks',
        )


def _check_nodes(spec: DeploymentSpec) -> None:
    given, needed = spec.runtime.tensorrt_llm.num_nodes, nodes_of(spec)
    if given is not None and spec.hardware is not None and given != needed:
        raise SpecError(
            f"{_FIELDS}.num_nodes is {given}, {spec.engine.world_size} ranks on machines of"
            f" {spec.hardware.gpus_per_node} GPUs need {needed}",
            mend="leave num_nodes out",
        )


def _check_draft(spec: DeploymentSpec) -> None:
    if spec.runtime.tensorrt_llm.speculative_decoding_fast_logits and spec.engine.draft is None:
        raise SpecError(
            f"{_FIELDS}.speculative_decoding_fast_logits is true, engine.draft is missing: nobody sends logits",
            mend="leave it out",
        )


def _check_guided(spec: DeploymentSpec, locations: Locations) -> None:
    if spec.runtime.tensorrt_llm.guided_decoding_backend is None:
        return
    if spec.engine.draft is not None or spec.engine.speculation is not None:
        raise SpecError(
            f"{_FIELDS}.guided_decoding_backend is given with speculation: the backend moves the grammar on by one"
            " token a step",
            mend="leave one of the two out",
        )
    if locations.xgrammar_info is None:
        raise SpecError(
            f"{_FIELDS}.guided_decoding_backend is xgrammar, the file with the tokenizer's vocabulary is not named",
            mend=f"render it from the deployment: slipstream render {spec.name}",
        )


def _check_lookahead(speculation: SpeculationSpec) -> None:
    window, ngram = speculation.lookahead_window_size, speculation.lookahead_ngram_size
    guesses = speculation.lookahead_verification_set_size
    assert window is not None, speculation
    assert ngram is not None, speculation
    assert guesses is not None, speculation
    found = f"engine.speculation.lookahead_… is window {window}, ngram {ngram}, verification set {guesses}"
    if ngram == 1 and (window, guesses) == (1, 0):
        return
    if ngram == 1:
        raise SpecError(
            f"{found}: an n-gram of 1 needs window 1 and verification set 0", mend="use an ngram of 2 or more"
        )
    drafted = ngram - 2 + (window - 1 + guesses) * (ngram - 1)
    if drafted > speculation.max_draft_len:
        raise SpecError(
            f"{found}: that drafts {drafted} tokens a step, engine.speculation.max_draft_len is"
            f" {speculation.max_draft_len}",
            mend=f"set engine.speculation.max_draft_len to {drafted}",
        )
