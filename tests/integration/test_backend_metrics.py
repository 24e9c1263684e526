"""What /metrics of a running deployment says, against TensorRT-LLM's own families and against what happens."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.request import urlopen

import pytest

from slipstream.backend.metric_families import ABSENT_FAMILIES, ABSENT_VALUES
from slipstream.text.tokenizer import Tokenizer
from tests.conftest import ROOT, Served
from tests.integration.triton_calls import PROMPT, Stream, ask, prompt_of, token_ids, wait_for_active

ENGINE = "tensorrt_llm"
CONTRACT: Mapping[str, Any] = json.loads((ROOT / "tests/contract/trtllm-1.2.1/metrics.json").read_text("utf-8"))
FAMILIES = {row["name"]: row for row in CONTRACT["families"]}
HISTOGRAMS = {name for name, row in FAMILIES.items() if row["type"] == "histogram"}
OURS = ("nv_trt_llm_", "nv_llm_")
LEAST_MODEL_BYTES = 100e6  # the weights alone


@dataclass
class Scrape:
    """One answer of /metrics: each family's type, and the labels and value of each of its samples."""

    types: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[tuple[dict[str, str], float]]] = field(default_factory=lambda: defaultdict(list))

    def value(self, family: str, value: str, **labels: str) -> float:
        """The engine's sample of `family`, or of a histogram's part, that `value` and `labels` name."""
        (found,) = [
            number
            for found, number in self.samples[family]
            if value in found.values() and labels.items() <= found.items()
        ]
        return found

    def values(self, family: str) -> dict[str, float]:
        """The engine's samples by the label that tells them apart."""
        label = FAMILIES[family]["label"]
        return {labels[label]: number for labels, number in self.samples[family]}


def scrape(served: Served) -> Scrape:
    got = Scrape()
    with urlopen(f"http://{served.metrics}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    for line in lines:
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            got.types[name] = kind
        elif line and not line.startswith("#"):
            sample, _, number = line.rpartition(" ")
            labels = dict(re.findall(r'(\w+)="([^"]*)"', sample))
            got.samples[sample.partition("{")[0]].append((labels, float(number)))
    return got


def scrape_until(served: Served, holds: Callable[[Scrape], bool], what: str) -> Scrape:
    """The first scrape for which `holds`: Triton is told a moment after a thing happens."""
    deadline = time.monotonic() + 10
    while not holds(got := scrape(served)):
        assert time.monotonic() < deadline, f"{what}: {dict(got.samples)}"
        time.sleep(0.02)
    return got


@pytest.fixture
def prompt(served: Served) -> list[int]:
    return Tokenizer.load(served.model_dir).encode(PROMPT)


@contextmanager
def running(served: Served, prompt: list[int], count: int) -> Iterator[list[Stream]]:
    """`count` streams that have begun, and would run for tens of seconds."""
    wait_for_active(served, 0)
    streams = [Stream(served) for _ in range(count)]
    try:
        for stream in streams:
            stream.start(ENGINE, **prompt_of(prompt, 1500), streaming=True)
        for stream in streams:
            stream.next()
        yield streams
    finally:
        for stream in streams:
            stream.close()
        wait_for_active(served, 0)


def test_every_family_and_label_is_the_references(served: Served, prompt: list[int]) -> None:
    with running(served, prompt, 2):
        got = scrape(served)
    ours = {name: kind for name, kind in got.types.items() if name.startswith(OURS)}
    assert ours == {name: row["type"] for name, row in FAMILIES.items() if name not in ABSENT_FAMILIES}
    for name in ours:
        row = FAMILIES[name]
        samples = got.samples[f"{name}_count" if name in HISTOGRAMS else name]
        assert all(set(labels) == {*CONTRACT["common_labels"], row["label"]} for labels, _ in samples), name
        assert {(labels["model"], labels["version"]) for labels, _ in samples} == {(ENGINE, "1")}, name
        expected = set(row["values"]) - set(ABSENT_VALUES.get(name, ()))
        assert sorted(labels[row["label"]] for labels, _ in samples) == sorted(expected), name
    for name in HISTOGRAMS:
        limits = [labels["le"] for labels, _ in got.samples[f"{name}_bucket"]]
        assert limits == [*map(str, FAMILIES[name]["buckets"]), "+Inf"]
    engines = {name for name, samples in got.samples.items() for labels, _ in samples if labels.get("model") == ENGINE}
    assert set(CONTRACT["base_triton"]) <= engines


def test_what_is_absent_is_known_to_the_reference() -> None:
    assert set(ABSENT_FAMILIES) <= set(FAMILIES)
    assert all(set(values) <= set(FAMILIES[name]["values"]) for name, values in ABSENT_VALUES.items())


def test_gauges_follow_the_requests_that_run(served: Served, prompt: list[int]) -> None:
    began_us = time.time_ns() // 1000
    with running(served, prompt, 3):
        first = scrape_until(
            served,
            lambda got: got.value("nv_trt_llm_inflight_batcher_metrics", "generation_requests") == 3,
            "three run",
        )
        before = first.values("nv_trt_llm_general_metrics")
        second = scrape_until(
            served,
            lambda got: got.value("nv_trt_llm_general_metrics", "iteration_counter") > before["iteration_counter"],
            "the engine goes on",
        )
    assert first.values("nv_trt_llm_request_metrics") == {
        "active": 3,
        "max": 32,
        "scheduled": 3,
        "context": 0,
        "waiting": 0,
    }
    assert first.values("nv_trt_llm_inflight_batcher_metrics") == {
        "total_context_tokens": 0,
        "generation_requests": 3,
        "micro_batch_id": 0,
        "paused_requests": 0,
    }
    after = second.values("nv_trt_llm_general_metrics")
    assert began_us < before["timestamp"] < after["timestamp"] <= time.time_ns() // 1000
    memory = second.values("nv_trt_llm_runtime_memory_metrics")
    assert memory.pop("cpu") > LEAST_MODEL_BYTES
    assert memory == {"gpu": 0, "pinned": 0}
    check_blocks(second.values("nv_trt_llm_kv_cache_block_metrics"), least_used=3)
    drained = scrape_until(
        served, lambda got: got.value("nv_trt_llm_kv_cache_block_metrics", "used") == 0, "the blocks are free again"
    )
    check_blocks(drained.values("nv_trt_llm_kv_cache_block_metrics"), least_used=0)


def check_blocks(blocks: Mapping[str, float], *, least_used: int) -> None:
    assert least_used <= blocks["used"] < blocks["max"]
    assert blocks["free"] == blocks["max"] - blocks["used"]
    assert blocks["fraction"] == pytest.approx(blocks["used"] / blocks["max"])
    assert blocks["tokens_per"] == 32


def test_a_long_prompt_shows_as_context_while_it_is_read(served: Served, prompt: list[int]) -> None:
    wait_for_active(served, 0)
    words = [*prompt * 500][:2000]
    words[0] = int(time.time()) % 1000 + 1000  # no earlier run's prefix
    stream = Stream(served)
    stream.start(ENGINE, **prompt_of(words, 2), streaming=True)
    got = scrape_until(
        served, lambda got: got.value("nv_trt_llm_request_metrics", "context") == 1, "the prompt is being read"
    )
    stream.rest()
    stream.close()
    assert got.value("nv_trt_llm_inflight_batcher_metrics", "total_context_tokens") == 2000
    assert got.value("nv_trt_llm_inflight_batcher_metrics", "generation_requests") == 0


@pytest.mark.parametrize("streaming", [True, False])
def test_lengths_of_answered_requests_are_counted_once(served: Served, prompt: list[int], streaming: bool) -> None:
    wait_for_active(served, 0)
    before = scrape(served)
    asked = (3, 10, 11, 60)
    for length in asked:
        ids = token_ids(
            ask(served, ENGINE, **prompt_of(prompt, length), streaming=streaming, exclude_input_in_output=True)
        )
        assert len(ids) == length
    with pytest.raises(Exception, match="vocabulary"):
        ask(served, ENGINE, **prompt_of([10**6], 4))
    after = scrape_until(
        served, lambda got: rise(before, got, "nv_llm_output_token_len_count") >= len(asked), "all are counted"
    )
    outputs = [rise(before, after, "nv_llm_output_token_len_bucket", le=le) for le in ("10", "50", "100", "+Inf")]
    assert outputs == [2, 3, 4, 4]
    assert rise(before, after, "nv_llm_output_token_len_sum") == sum(asked)
    assert rise(before, after, "nv_llm_input_token_len_count") == len(asked)
    assert rise(before, after, "nv_llm_input_token_len_sum") == len(asked) * len(prompt)
    successes = [got.value("nv_inference_request_success", ENGINE) for got in (before, after)]
    assert successes[1] - successes[0] == len(asked) + 1, "Triton counts the refused one, which was handed over, too"


def rise(before: Scrape, after: Scrape, name: str, **labels: str) -> float:
    """By how much one sample of a histogram has risen."""
    family = name.rpartition("_")[0]
    (value,) = FAMILIES[family]["values"]
    return after.value(name, value, **labels) - before.value(name, value, **labels)
