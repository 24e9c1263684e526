"""Traces from a client through the gateway to Triton, in OTLP as a collector gets them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from slipstream.gateway.observability.tracing import Tracing
from slipstream.gateway.services import Models, Services
from slipstream.spec import GatewaySpec
from tests.fakes.gateway import a_model, gateway
from tests.fakes.triton import FakeTriton, Script

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def a_collector() -> Iterator[tuple[str, list[Span]]]:
    """Where it listens, and the spans that it got."""
    spans: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()
        thread.join()


def ask(url: str, traceparent: str) -> None:
    body = json.dumps({"model": "small", "prompt": "secret", "max_tokens": 2}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"content-type": "application/json"})
    request.add_header("traceparent", traceparent)
    urllib.request.urlopen(request, timeout=10).read()


def traced(traceparent: str, share: float) -> tuple[list[Span], dict[str, str]]:
    """The spans of one request, and what Triton was sent with it."""
    with a_collector() as (endpoint, spans), FakeTriton({"tensorrt_llm": Script(pieces=[[5], [6]])}) as triton:
        tracing = Tracing(endpoint, share=share)

        def services() -> Services:
            return Services(spec=GatewaySpec(), models=Models([a_model(triton.address)]), tracing=tracing)

        with gateway(services) as url:
            ask(url, traceparent)
        tracing.close()
        return spans, triton.received[0].metadata


def test_a_request_is_a_span_of_its_client_with_queue_and_engine_inside() -> None:
    spans, metadata = traced(f"00-{TRACE}-{PARENT}-01", share=0)
    by_name = {span.name: span for span in spans}
    assert by_name.keys() == {"/v1/completions", "queue", "engine"}
    root = by_name["/v1/completions"]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert root.parent_span_id.hex() == PARENT
    assert by_name["queue"].parent_span_id == by_name["engine"].parent_span_id == root.span_id
    assert [event.name for event in by_name["engine"].events] == ["first token"]
    times = [root.start_time_unix_nano, by_name["engine"].start_time_unix_nano, by_name["engine"].end_time_unix_nano]
    assert sorted(times) == times
    assert metadata["traceparent"] == f"00-{TRACE}-{root.span_id.hex()}-01"
    assert b"secret" not in b"".join(span.SerializeToString() for span in spans)


def test_what_its_client_did_not_want_traced_is_not_but_triton_hears_so() -> None:
    spans, metadata = traced(f"00-{TRACE}-{PARENT}-00", share=1)
    assert spans == []
    assert metadata["traceparent"].startswith(f"00-{TRACE}-")
    assert metadata["traceparent"].endswith("-00")


def test_a_gateway_without_traces_imports_nothing_of_them() -> None:
    code = "import sys, slipstream.gateway.app; print([one for one in sys.modules if 'opentelemetry.sdk' in one])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
