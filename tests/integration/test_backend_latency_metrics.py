"""Latencies and totals on /metrics under vLLM's names, and the figures of a request, against what was sent."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from slipstream.text.tokenizer import Tokenizer
from tests.conftest import ROOT, Served
from tests.integration.test_backend_metrics import ENGINE, Scrape, scrape, scrape_until
from tests.integration.triton_calls import PROMPT, Stream, ask, prompt_of, token_ids, wait_for_active

CONTRACT: Mapping[str, Any] = json.loads((ROOT / "tests/contract/vllm/metrics.json").read_text("utf-8"))
FAMILIES = {row["name"]: row for row in CONTRACT["families"]}
HISTOGRAMS = {name for name, row in FAMILIES.items() if row["type"] == "histogram"}
GAPS = "vllm:inter_token_latency_seconds"  # a histogram that is written as counters
BLOCK = 32

_numbers = itertools.count(int(time.time()) % 1000)


def a_new_prompt(length: int) -> list[int]:
    """Tokens that no request before had."""
    return [5000 + next(_numbers), *range(1000, 999 + length)]


def one(got: Scrape, name: str, **labels: str) -> float:
    (found,) = [number for has, number in got.samples[name] if labels.items() <= has.items()]
    return found


def figures(served: Served, prompt: list[int], tokens: int) -> dict[str, int]:
    """What `return_perf_metrics` says of one request."""
    responses = ask(served, ENGINE, **prompt_of(prompt, tokens), streaming=True, return_perf_metrics=True)
    return {name: tensor.item() for name, tensor in responses[-1].items() if name.endswith(("_ns", "_blocks"))}


def settled(served: Served, requests: int, before: Scrape) -> Scrape:
    """The first scrape that has counted `requests` more, and the gaps between their tokens."""
    wait_for_active(served, 0)

    def is_counted(got: Scrape) -> bool:
        ended = rise(before, got, "vllm:e2e_request_latency_seconds_count")
        starts = rise(before, got, "vllm:time_to_first_token_seconds_count")
        gaps = rise(before, got, f"{GAPS}_count")
        return ended == requests and gaps == rise(before, got, "vllm:generation_tokens_total") - starts

    return scrape_until(served, is_counted, f"{requests} requests are counted")


def rise(before: Scrape, after: Scrape, name: str, **labels: str) -> float:
    return one(after, name, **labels) - one(before, name, **labels)


@pytest.fixture
def prompt(served: Served) -> list[int]:
    return Tokenizer.load(served.model_dir).encode(PROMPT)


def test_names_kinds_labels_and_buckets_are_vllms(served: Served) -> None:
    got = scrape(served)
    ours = {name: kind for name, kind in got.types.items() if name.startswith("vllm:") and not name.startswith(GAPS)}
    assert ours == {name: row["type"] for name, row in FAMILIES.items() if name != GAPS}
    for name, row in FAMILIES.items():
        samples = got.samples[f"{name}_count" if name in HISTOGRAMS else name]
        labels = {*CONTRACT["common_labels"], *row.get("labels", ()), *([row["label"]] if "label" in row else [])}
        assert samples, name
        assert all(set(has) == labels and has["model_name"] == ENGINE for has, _ in samples), name
        assert {has[row["label"]] for has, _ in samples} < set(row["values"]) if "label" in row else True, name
    for name in HISTOGRAMS:
        limits = [has["le"] for has, _ in got.samples[f"{name}_bucket"]]
        *numbers, last = sorted(limits, key=float)
        tokens = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]
        assert [float(number) for number in numbers] == (tokens if "tokens" in name else FAMILIES[name]["buckets"])
        assert last == "+Inf"
    (cache,) = [has for has, _ in got.samples["vllm:cache_config_info"]]
    blocks = {has["kv_cache_block_type"]: number for has, number in got.samples["nv_trt_llm_kv_cache_block_metrics"]}
    assert (float(cache["block_size"]), float(cache["num_gpu_blocks"])) == (blocks["tokens_per"], blocks["max"])


def test_totals_and_histograms_count_what_was_sent(served: Served, prompt: list[int]) -> None:
    wait_for_active(served, 0)
    before = settled(served, 0, scrape(served))
    began = time.monotonic()
    lengths = (1, 3, 12, 40)
    for length in lengths:
        assert len(token_ids(ask(served, ENGINE, **prompt_of(prompt, length), streaming=True))) == length
    took_s = time.monotonic() - began
    got = settled(served, len(lengths), before)
    tokens, prompts = sum(lengths), len(lengths) * len(prompt)
    assert rise(before, got, "vllm:generation_tokens_total") == tokens
    for name in ("vllm:prompt_tokens_total", "vllm:prefix_cache_queries_total", "vllm:request_prompt_tokens_sum"):
        assert rise(before, got, name) == prompts, name
    assert rise(before, got, "vllm:request_generation_tokens_sum") == tokens
    counts = [rise(before, got, "vllm:request_generation_tokens_bucket", le=le) for le in ("1", "5", "20", "50")]
    assert counts == [1, 2, 3, 4]
    assert rise(before, got, f"{GAPS}_count") == tokens - len(lengths)
    assert rise(before, got, f"{GAPS}_bucket", le="+Inf") == tokens - len(lengths)
    assert rise(before, got, "vllm:request_success_total", finished_reason="length") == len(lengths)
    assert rise(before, got, "vllm:request_time_per_output_token_seconds_count") == len(lengths) - 1
    sums = {
        name: rise(before, got, f"vllm:{name}_seconds_sum")
        for name in ("request_queue_time", "request_prefill_time", "request_decode_time", "request_inference_time")
    }
    ttft_s = rise(before, got, "vllm:time_to_first_token_seconds_sum")
    e2e_s = rise(before, got, "vllm:e2e_request_latency_seconds_sum")
    gaps_s = rise(before, got, f"{GAPS}_sum")
    assert 0 < sums["request_queue_time"] < ttft_s < e2e_s < took_s
    assert ttft_s == pytest.approx(sums["request_queue_time"] + sums["request_prefill_time"])
    assert gaps_s == pytest.approx(sums["request_decode_time"])
    assert sums["request_inference_time"] == pytest.approx(sums["request_prefill_time"] + gaps_s)


def test_requests_end_for_the_reason_that_is_counted(served: Served, prompt: list[int]) -> None:
    before = settled(served, 0, scrape(served))
    (token,) = token_ids(ask(served, ENGINE, **prompt_of(prompt, 1), streaming=True))
    assert token_ids(ask(served, ENGINE, **prompt_of(prompt, 50), streaming=True, end_id=token)) == []
    stream = Stream(served)
    stream.start(ENGINE, **prompt_of(prompt, 1500), streaming=True)
    stream.next()
    stream.close()
    wait_for_active(served, 0)
    got = scrape_until(
        served, lambda got: rise(before, got, "vllm:e2e_request_latency_seconds_count") == 3, "all are counted"
    )
    reasons = {
        reason: rise(before, got, "vllm:request_success_total", finished_reason=reason)
        for reason in ("stop", "length", "abort", "error")
    }
    assert reasons == {"stop": 1, "length": 1, "abort": 1, "error": 0}
    assert rise(before, got, "vllm:prompt_tokens_total") == 3 * len(prompt), "also where the first token ended it"


def test_kv_blocks_that_a_prompt_finds_are_told(served: Served) -> None:
    before = settled(served, 0, scrape(served))
    words = a_new_prompt(100)
    first, again, longer = (figures(served, ids, 4) for ids in (words, words, [*words[:70], *range(2000, 2030)]))
    names = ("kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks")
    assert [first[name] for name in names] == [4, 0, 4]
    assert [again[name] for name in names] == [1, 3, 1]
    assert [longer[name] for name in names] == [2, 2, 2]
    got = settled(served, 3, before)
    assert rise(before, got, "nv_trt_llm_kv_cache_block_metrics", kv_cache_block_type="reused") == 5
    assert rise(before, got, "vllm:prefix_cache_queries_total") == 300
    assert rise(before, got, "vllm:prefix_cache_hits_total") == 5 * BLOCK


def test_a_request_is_first_scheduled_when_there_is_room(served: Served) -> None:
    """33 requests on 32 places: the last one waits for the first that ends."""
    wait_for_active(served, 0)
    streams = [Stream(served) for _ in range(33)]
    *others, late = streams
    for stream in others:
        stream.start(ENGINE, **prompt_of(a_new_prompt(20), 60), streaming=True, return_perf_metrics=True)
    for stream in others:
        stream.next()
    late.start(ENGINE, **prompt_of(a_new_prompt(20), 1), streaming=True, return_perf_metrics=True)
    waiting = scrape_until(served, lambda got: one(got, "vllm:num_requests_waiting") == 1, "one waits")
    times = [{name: tensor.item() for name, tensor in stream.rest()[-1].items() if "_ns" in name} for stream in streams]
    for stream in streams:
        stream.close()
    assert one(waiting, "vllm:num_requests_running") == 32
    assert 0 < one(waiting, "vllm:kv_cache_usage_perc") < 1
    for each in times:
        order = [each[f"{name}_time_ns"] for name in ("arrival", "first_scheduled", "first_token", "last_token")]
        assert order == sorted(order)
        assert order[1] < order[2]
    first_end_ns = min(each["last_token_time_ns"] for each in times[:-1])
    assert times[-1]["arrival_time_ns"] < first_end_ns <= times[-1]["first_scheduled_time_ns"]
