"""The OpenAPI description is what is served: every operation is tried with what it allows and what it does not."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from slipstream.spec import GatewaySpec
from tests.fakes.gateway import gateway, services_for
from tests.fakes.triton import FakeTriton, Script
from tests.unit.small_tokenizers import byte_level


def breaks_nothing(ctx: Any, response: Any, case: Any) -> None:
    """501 is an answer: the model makes no embeddings."""
    assert response.status_code < 500 or response.status_code == 501, response.text


CHECKS = (breaks_nothing, content_type_conformance, response_schema_conformance)


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    pieces = [[token] for token in byte_level().encode("fox")]
    spec = GatewaySpec(tool_parser="hermes", playground=False)
    with (
        FakeTriton({"tensorrt_llm": Script(pieces=pieces)}) as triton,
        gateway(services_for(triton.address, spec)) as url,
    ):
        yield url


@pytest.fixture(scope="module")
def described(base: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{base}/openapi.json", timeout=10) as answer:
        schema: dict[str, Any] = json.load(answer)
    for body in schema["components"]["schemas"].values():
        if "model" in body.get("properties", {}):  # else nearly every request ends at an unknown model
            body["properties"]["model"] = {"const": "small"}
    return schema


@pytest.fixture(scope="module")
def api(described: dict[str, Any], base: str) -> Any:
    schema = schemathesis.openapi.from_dict(described)
    schema.config.update(base_url=base)
    # Embeddings are 501 by name on a model of text, which is what is served here.
    return schema.include(path_regex="^/(v1/(?!embeddings)|tokenize|detokenize)")


def test_no_operation_breaks_and_all_answers_are_as_described(api: Any) -> None:
    tried = []
    for found in api.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(max_examples=8, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
        def is_as_described(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=list(CHECKS), timeout=10)

        is_as_described()
        tried.append(operation.label)
    assert len(tried) >= 11, tried


def test_streams_and_refusals_are_described(described: dict[str, Any]) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
        responses = described["paths"][path]["post"]["responses"]
        assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
        assert {"400", "401", "404", "413", "429", "503"} <= set(responses)
        assert "422" not in responses
