"""Embeddings: by whom they are made, which are kept, and what a model that writes text says to it."""

from __future__ import annotations

import base64
import json
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from slipstream.gateway.caching.opening import open_embedding_cache
from slipstream.gateway.caller import Caller
from slipstream.gateway.embeddings.embedder import Embedding, Passage
from slipstream.gateway.observability.metrics import Metrics
from slipstream.gateway.security import Security
from slipstream.gateway.services import Models, Services
from slipstream.spec import EmbeddingCacheSpec, GatewaySpec
from tests.fakes.gateway import a_model, gateway


@dataclass
class Lengths:
    """An embedder whose vectors tell how long a passage is; it remembers what it was asked for."""

    dimensions: int = 2
    digest: str | None = "d"
    asked: list[Passage] = field(default_factory=list)

    async def embed(self, passages: Sequence[Passage]) -> list[Embedding]:
        self.asked += passages
        return [Embedding(vector=(float(len(one)), 0.5), tokens=len(one)) for one in passages]


@contextmanager
def embedding_gateway(embedder: Lengths, *, is_shared: bool = False, is_kept: bool = True) -> Iterator[str]:
    callers = {
        "a": Caller(id="a", name="a"),
        "b": Caller(id="b", name="b"),
        "narrow": Caller(id="narrow", name="narrow", models=("small",)),
    }
    spec = GatewaySpec(embedding_cache=EmbeddingCacheSpec(shared=is_shared) if is_kept else None)

    def make() -> Services:
        metrics = Metrics()
        return Services(
            spec=spec,
            models=Models([a_model("127.0.0.1:9")]),
            metrics=metrics,
            security=Security(finders=[callers.get]),
            embedders={"vectors": embedder},
            embedding_cache=open_embedding_cache(spec, metrics),
        )

    with gateway(make) as url:
        yield url


def ask(base: str, given: Any, key: str = "a", headers: dict[str, str] | None = None, **more: Any) -> tuple[Any, Any]:
    body = {"model": "vectors", "input": given, **more}
    sent = {"content-type": "application/json", "authorization": f"Bearer {key}", **(headers or {})}
    request = urllib.request.Request(f"{base}/v1/embeddings", json.dumps(body).encode(), sent)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer), answer.headers["x-cache"]


def refusal(base: str, given: Any, **more: Any) -> tuple[int, dict[str, Any]]:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(base, given, **more)
    return refused.value.code, json.load(refused.value)["error"]


def vectors(answer: Any) -> list[Any]:
    return [one["embedding"] for one in answer["data"]]


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with embedding_gateway(Lengths(), is_kept=False) as url:
        yield url


@pytest.mark.parametrize(
    ("given", "lengths"),
    [("abc", [3]), (["a", "bc"], [1, 2]), ([7, 8, 9], [3]), ([[1], [2, 3]], [1, 2])],
)
def test_every_form_of_input_is_embedded_in_its_order(base: str, given: Any, lengths: list[int]) -> None:
    answer, cache = ask(base, given)
    assert vectors(answer) == [[float(length), 0.5] for length in lengths]
    assert answer["usage"] == {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)}
    assert cache is None


def test_base64_holds_the_same_numbers(base: str) -> None:
    answer, _ = ask(base, "abc", encoding_format="base64")
    assert struct.unpack("<2f", base64.b64decode(vectors(answer)[0])) == (3.0, 0.5)


def test_a_model_that_writes_text_says_so_by_name(base: str) -> None:
    status, error = refusal(base, "abc", model="small")
    assert (status, error["code"], error["param"]) == (501, "embeddings_not_supported", "model")
    assert "small" in error["message"]


def test_an_unknown_model_and_one_of_others_are_refused(base: str) -> None:
    assert refusal(base, "abc", model="none")[0] == 404
    assert refusal(base, "abc", key="narrow")[0] == 403


@pytest.mark.parametrize("given", ["", [], [""], [[]], ["a", ""], ["x"] * 2049])
def test_nothing_and_too_much_are_refused(base: str, given: Any) -> None:
    status, error = refusal(base, given)
    assert (status, error["param"]) == (400, "input")


def test_only_the_models_own_dimensions_are_given(base: str) -> None:
    assert ask(base, "abc", dimensions=2)
    assert refusal(base, "abc", dimensions=3)[1]["param"] == "dimensions"


def test_only_what_is_not_kept_is_computed() -> None:
    embedder = Lengths()
    with embedding_gateway(embedder) as url:
        assert ask(url, ["one", "three"])[1] == "miss"
        answer, cache = ask(url, ["three", "seventy", "one", "seventy"])
        assert cache == "miss"
        assert vectors(answer) == [[5.0, 0.5], [7.0, 0.5], [3.0, 0.5], [7.0, 0.5]]
        assert embedder.asked == ["one", "three", "seventy"]
        assert ask(url, ["one", "seventy"])[1] == "hit"
        assert ask(url, [1, 1, 1])[1] == "miss"  # token ids are no text


def test_a_kept_vector_is_the_very_one_that_was_given_first() -> None:
    class Tenths(Lengths):
        async def embed(self, passages: Sequence[Passage]) -> list[Embedding]:
            return [Embedding(vector=(0.1, 1 / 3), tokens=1) for _ in passages]

    with embedding_gateway(Tenths()) as url:
        first, second = ask(url, "abc"), ask(url, "abc")
    assert (first[1], second[1]) == ("miss", "hit")
    assert first[0] == second[0]


@pytest.mark.parametrize(("is_shared", "expected"), [(False, "miss"), (True, "hit")])
def test_callers_do_not_see_each_others_unless_told_to(is_shared: bool, expected: str) -> None:
    with embedding_gateway(Lengths(), is_shared=is_shared) as url:
        ask(url, "abc")
        assert ask(url, "abc", key="b")[1] == expected


def test_a_client_may_ask_for_fresh_ones_and_leave_no_trace() -> None:
    embedder = Lengths()
    with embedding_gateway(embedder) as url:
        assert ask(url, "abc", headers={"cache-control": "no-store"})[1] == "bypass"
        assert ask(url, "abc", headers={"cache-control": "no-cache"})[1] == "bypass"
        assert ask(url, "abc")[1] == "hit"
    assert len(embedder.asked) == 2


def test_an_embedder_of_unknown_make_is_not_kept() -> None:
    with embedding_gateway(Lengths(digest=None)) as url:
        assert [ask(url, "abc")[1] for _ in range(2)] == ["bypass", "bypass"]


def test_a_reload_keeps_the_cache_whose_settings_stay() -> None:
    spec = GatewaySpec(embedding_cache=EmbeddingCacheSpec())
    kept = open_embedding_cache(spec, Metrics())
    assert open_embedding_cache(spec, Metrics(), kept) is kept
    other = GatewaySpec(embedding_cache=EmbeddingCacheSpec(ttl_s=5))
    assert open_embedding_cache(other, Metrics(), kept) is not kept
    assert open_embedding_cache(GatewaySpec(), Metrics(), kept) is None
