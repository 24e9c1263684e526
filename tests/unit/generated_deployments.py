"""Valid GPU deployments of every shape: engines, ranks, speculation, and any combination of the backend's settings."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from slipstream.spec import DeploymentSpec

Json = dict[str, Any]
_FRACTION = st.sampled_from([0.05, 0.1, 1e-05, 0.25])
_HUGE = 2**31 - 1


def sometimes(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    """Any of the keys, each with a value of its strategy."""
    return st.fixed_dictionaries({}, optional=values)


@st.composite
def deployments(draw: st.DrawFn) -> DeploymentSpec:
    """A deployment for engine.target tensorrt_llm that the spec and the backend take."""
    engine = draw(_engines())
    drafts, instances = "draft" in engine, draw(st.integers(1, 3))
    ranks = engine["tp_size"] * engine["pp_size"]
    if drafts:
        instances = 1
    spawns, orchestrates = draw(st.booleans()), instances > 1 or draw(st.booleans())
    settings = draw(_settings(engine, speculates=drafts or "speculation" in engine))
    if draw(st.booleans()):
        settings["gpu_device_ids"] = _ids(instances, ranks, first=0)
    if orchestrates and not spawns:
        settings["participant_ids"] = _ids(instances, ranks, first=1 + (ranks if drafts else 0))
        if drafts and draw(st.booleans()):
            settings["speculative_decoding_fast_logits"] = True
    runtime = draw(_runtimes(drafts=drafts)) | {"engine_instances": instances, "tensorrt_llm": settings}
    runtime["launch_mode"] = "orchestrator" if orchestrates else "leader"
    return DeploymentSpec.model_validate(
        {
            "name": "generated",
            "model": {"source": "org/model", "dtype": "bfloat16"},
            "engine": engine,
            "runtime": runtime,
            "hardware": {"gpu": "H100 80GB SXM", "gpus_per_node": 64},
        }
    )


def _ids(instances: int, members: int, *, first: int) -> str:
    return ";".join(
        ",".join(str(first + instance * members + number) for number in range(members)) for instance in range(instances)
    )


@st.composite
def _engines(draw: st.DrawFn) -> Json:
    engine: Json = {
        "target": "tensorrt_llm",
        "tp_size": draw(st.sampled_from([1, 2, 4])),
        "pp_size": draw(st.sampled_from([1, 2])),
        "max_batch_size": draw(st.integers(1, 512)),
        "trtllm_build": {"weight_streaming": draw(st.booleans())},
    }
    kind = draw(st.sampled_from(["plain", "beams", "draft", "lookahead", "medusa", "eagle"]))
    if kind == "beams":
        engine["max_beam_width"] = draw(st.integers(2, 8))
    elif kind == "draft":
        engine["draft"] = {"model": {"source": "org/draft"}, "kv_cache_free_gpu_mem_fraction": draw(_FRACTION)}
    elif kind != "plain":
        engine["speculation"] = draw(_speculations(kind))
    if kind in {"medusa", "eagle"}:
        engine["checkpoint_dir"] = "/checkpoints/heads"
    if draw(st.booleans()):
        engine["lora"] = {"max_lora_rank": draw(st.sampled_from([8, 64, 256]))}
    return engine


@st.composite
def _speculations(draw: st.DrawFn, mode: str) -> Json:
    if mode == "lookahead":
        ngram = draw(st.integers(1, 8))
        window, guesses = (1, 0) if ngram == 1 else (draw(st.integers(1, 8)), draw(st.integers(0, 8)))
        sizes = {"window_size": window, "ngram_size": ngram, "verification_set_size": guesses}
        return {"mode": mode, "max_draft_len": 256, **{f"lookahead_{name}": size for name, size in sizes.items()}}
    tree = sometimes(**{f"{mode}_choices": st.sampled_from(["{0}", "{0},{0,0},{1}", "{0},{1},{10,2,3}"])})
    return {"mode": mode, "max_draft_len": draw(st.integers(1, 63)), **draw(tree)}


@st.composite
def _settings(draw: st.DrawFn, engine: Json, *, speculates: bool) -> Json:
    found = draw(
        sometimes(
            max_tokens_in_paged_kv_cache=st.integers(1, _HUGE),
            max_attention_window_size=st.sampled_from(["4096"] if speculates else ["4096", "512,512,2048"]),
            kv_cache_host_memory_bytes=st.integers(0, 1 << 44),
            kv_cache_onboard_blocks=st.just(True),
            normalize_log_probs=st.booleans(),
            num_nodes=st.just(1),
            enable_context_fmha_fp32_acc=st.booleans(),
            multi_block_mode=st.booleans(),
            iter_stats_max_iterations=st.integers(0, _HUGE),
            request_stats_max_iterations=st.integers(0, _HUGE),
            recv_poll_period_ms=st.integers(0, 60_000),
        )
    )
    if "lora" in engine:
        found |= draw(_lora_caches())
    if draw(st.booleans()):
        found |= {"cuda_graph_mode": True, **draw(sometimes(cuda_graph_cache_size=st.integers(0, 100_000)))}
    if engine["trtllm_build"]["weight_streaming"]:
        found |= draw(sometimes(gpu_weights_percent=st.sampled_from([0.0, 1e-05, 0.5, 1.0])))
    if not speculates:
        found |= draw(sometimes(guided_decoding_backend=st.just("xgrammar"), decoding_mode=_modes(engine)))
    return found


def _lora_caches() -> st.SearchStrategy[Json]:
    return sometimes(
        lora_cache_optimal_adapter_size=st.integers(1, 512),
        lora_cache_max_adapter_size=st.integers(256, 512),
        lora_cache_gpu_memory_fraction=_FRACTION,
        lora_cache_host_memory_bytes=st.integers(0, 1 << 44),
        lora_prefetch_dir=st.just("/adapters"),
    )


def _modes(engine: Json) -> st.SearchStrategy[str]:
    return st.sampled_from(["beam_search"] if "max_beam_width" in engine else ["top_k", "top_p", "top_k_top_p"])


@st.composite
def _runtimes(draw: st.DrawFn, *, drafts: bool) -> Json:
    runtime = draw(
        sometimes(
            triton_max_batch_size=st.integers(1, 4096),
            max_queue_delay_microseconds=st.integers(0, 10_000_000),
            max_queue_size=st.integers(0, 1_000_000),
            default_queue_timeout_microseconds=st.integers(0, 86_400_000_000),
            queue_timeout_action=st.sampled_from(["REJECT", "DELAY"]),
            allow_queue_timeout_override=st.booleans(),
            preprocessing_instances=st.integers(1, 64),
            bls_instances=st.integers(1, 64),
            batch_scheduler_policy=st.sampled_from(["guaranteed_no_evict", "max_utilization"]),
            enable_chunked_context=st.booleans(),
            add_special_tokens=st.booleans(),
            skip_special_tokens=st.booleans(),
            accumulate_tokens=st.booleans(),
            cancellation_check_period_ms=st.integers(1, 10_000),
            stats_check_period_ms=st.integers(1, 60_000),
        )
    )
    # Several engines on a GPU: their shares sum to less than one.
    runtime["kv_cache_free_gpu_mem_fraction"] = draw(_FRACTION)
    if drafts:
        return runtime | {"decoupled": False, "exclude_input_in_output": False}
    profile = sometimes(
        decoupled=st.booleans(), exclude_input_in_output=st.booleans(), enable_kv_cache_reuse=st.booleans()
    )
    return runtime | draw(profile)
