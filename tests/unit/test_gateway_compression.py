"""Whole bodies are compressed for those who take it, and streams never are."""

from __future__ import annotations

import gzip
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard

from tests.fakes.gateway import gateway, services_for
from tests.fakes.triton import FakeTriton, Script
from tests.unit.small_tokenizers import byte_level

TEXT = "The quick brown fox " * 100
DECODERS = {"gzip": gzip.decompress, "zstd": lambda body: zstandard.ZstdDecompressor().decompress(body)}


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with (
        FakeTriton({"tensorrt_llm": Script(pieces=[byte_level().encode(TEXT)])}) as triton,
        gateway(services_for(triton.address)) as url,
    ):
        yield url


def ask(base: str, accepted: str, path: str = "/v1/chat/completions", **changes: Any) -> tuple[bytes, str | None]:
    body = {"model": "small", "messages": [{"role": "user", "content": "fox?"}], **changes}
    headers = {"content-type": "application/json", "accept-encoding": accepted}
    request = urllib.request.Request(base + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        content: bytes = answer.read()
        assert answer.headers["content-length"] in (None, str(len(content)))
        return content, answer.headers["content-encoding"]


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip, deflate", "gzip"),
        ("gzip;q=0.5, zstd;q=1.0", "zstd"),
        ("zstd;q=0, GZIP", "gzip"),
        ("gzip;q=0.0", None),
        ("br", None),
    ],
)
def test_a_body_is_encoded_as_the_client_takes_it(base: str, accepted: str, encoding: str | None) -> None:
    content, found = ask(base, accepted)
    assert found == encoding
    plain = content if encoding is None else DECODERS[encoding](content)
    assert json.loads(plain)["choices"][0]["message"]["content"] == TEXT
    assert encoding is None or len(content) < len(plain) / 4


def test_a_stream_and_a_short_body_go_out_as_they_are(base: str) -> None:
    content, found = ask(base, "gzip, zstd", stream=True)
    assert (found, content.endswith(b"data: [DONE]\n\n")) == (None, True)
    content, found = ask(base, "gzip, zstd", stop="quick")
    assert (found, json.loads(content)["choices"][0]["message"]["content"]) == (None, "The ")
