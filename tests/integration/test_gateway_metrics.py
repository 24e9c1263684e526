"""The gateway's process before a real server: what it tells of one request, and what the server tells through it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from slipstream.gateway_config import CONFIG_FILE, GatewayConfig, UpstreamConfig, write_config
from slipstream.perf.stub_gateway import free_port
from slipstream.spec import BackendSpec, GatewaySpec
from tests.conftest import Served

TOKENS = 12


def test_a_request_is_on_the_page_beside_the_servers_own_series_and_in_the_log(served: Served, tmp_path: Path) -> None:
    upstream = UpstreamConfig(
        name="smollm2",
        backends=(BackendSpec(grpc=served.grpc, metrics=served.metrics),),
        model_dir=served.model_dir,
        max_input_tokens=1024,
        context_tokens=2048,
    )
    config = GatewayConfig(root=tmp_path, port=free_port(), upstreams=(upstream,), settings=GatewaySpec())
    write_config(tmp_path / CONFIG_FILE, config)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "slipstream.gateway", str(tmp_path / CONFIG_FILE)]
    with log.open("w") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            answer = ask_when_up(config.url, process)
            with urllib.request.urlopen(f"{config.url}/metrics", timeout=10) as page:
                families = list(text_string_to_metric_families(page.read().decode()))
        finally:
            process.kill()
    assert answer["usage"]["completion_tokens"] == TOKENS
    found = {
        (sample.name, sample.labels.get("request_type") or sample.labels.get("kv_cache_block_type")): sample
        for family in families
        for sample in family.samples
    }
    assert found["vllm:generation_tokens_total", None].value == TOKENS
    for name, kind in (
        ("nv_trt_llm_request_metrics", "waiting"),
        ("nv_trt_llm_request_metrics", "scheduled"),
        ("nv_trt_llm_kv_cache_block_metrics", "fraction"),
        ("nv_trt_llm_kv_cache_block_metrics", "tokens_per"),
        ("nv_trt_llm_kv_cache_block_metrics", "max"),
    ):
        assert found[name, kind].labels["served_model"] == "smollm2"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (request,) = [line for line in lines if line["event"] == "request"]
    assert request["output_tokens"] == TOKENS


def ask_when_up(url: str, process: subprocess.Popen[bytes]) -> dict[str, dict[str, int]]:
    body = {"model": "smollm2", "prompt": "The sea", "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    until = time.monotonic() + 60
    while True:
        assert process.poll() is None, "the gateway ended"
        assert time.monotonic() < until
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                whole: dict[str, dict[str, int]] = json.load(answer)
                return whole
        except (ConnectionError, urllib.error.URLError):
            time.sleep(0.1)
