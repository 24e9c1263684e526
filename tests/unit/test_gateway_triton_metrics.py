"""Triton's series on the gateway's page."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client.parser import text_string_to_metric_families

from slipstream.gateway.observability.metrics import Metrics
from slipstream.gateway.observability.triton_metrics import TritonMetrics, TritonPage

PAGE = """\
# HELP nv_trt_llm_request_metrics TRT LLM request metrics
# TYPE nv_trt_llm_request_metrics gauge
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 3
# HELP nv_inference_count Number of inferences
# TYPE nv_inference_count counter
nv_inference_count{model="tensorrt_llm",version="1"} 7
# HELP vllm:kv_cache_usage_perc Share
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="tensorrt_llm"} 0.25
# HELP vllm:num_requests_running Requests
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tensorrt_llm"} 9
# HELP vllm:inter_token_latency_seconds_count Number
# TYPE vllm:inter_token_latency_seconds_count counter
vllm:inter_token_latency_seconds_count{engine="0",model_name="tensorrt_llm"} 5
"""


@contextmanager
def a_triton(page: str = PAGE) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def page(address: str, backend: str = "a") -> TritonPage:
    return TritonPage(address=address, model="small", backend=backend)


def samples(text: bytes) -> list[tuple[str, tuple[tuple[str, str], ...], float]]:
    families = text_string_to_metric_families(text.decode())
    return [(one.name, tuple(sorted(one.labels.items())), one.value) for family in families for one in family.samples]


def test_what_pickers_look_for_is_shown_and_what_the_gateway_has_itself_is_not() -> None:
    with a_triton() as (address, _):
        found = samples(asyncio.run(TritonMetrics([page(address)], Metrics(), age_s=1).page()))
    own = ("model", "tensorrt_llm"), ("request_type", "waiting"), ("served_model", "small"), ("version", "1")
    assert found == [
        ("nv_trt_llm_request_metrics", own, 3),
        (
            "vllm:kv_cache_usage_perc",
            (("engine", "0"), ("model_name", "tensorrt_llm"), ("served_model", "small")),
            0.25,
        ),
    ]


def test_two_tritons_of_a_model_are_told_apart_in_one_family() -> None:
    with a_triton() as (one, _), a_triton() as (other, _):
        text = asyncio.run(TritonMetrics([page(one), page(other, "b")], Metrics(), age_s=1).page())
    assert text.count(b"# TYPE nv_trt_llm_request_metrics gauge") == 1
    assert [dict(labels)["backend"] for name, labels, _ in samples(text) if name.startswith("nv_")] == ["a", "b"]


def test_a_page_is_read_once_in_its_time() -> None:
    async def read(metrics: TritonMetrics) -> None:
        await asyncio.gather(metrics.page(), metrics.page())
        await metrics.page()

    with a_triton() as (address, asked):
        asyncio.run(read(TritonMetrics([page(address)], Metrics(), age_s=60)))
    assert asked == ["/metrics"]


def test_a_triton_that_is_gone_has_no_series_and_breaks_nothing() -> None:
    with a_triton() as (address, _):
        pass
    metrics = Metrics()
    assert asyncio.run(TritonMetrics([page(address)], metrics, age_s=1).page()) == b""
    assert b'triton_scrapes_total{result="unreachable"} 1.0' in metrics.page()


def test_what_is_no_page_of_metrics_breaks_nothing() -> None:
    with a_triton("<html>{</html>") as (address, _):
        assert asyncio.run(TritonMetrics([page(address)], Metrics(), age_s=1).page()) == b""
