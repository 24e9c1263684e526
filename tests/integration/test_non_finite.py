"""NaN and infinity in a model's numbers: the request that meets them ends with an error, the others go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipstream.backend.beam_pipeline import NOT_FINITE
from slipstream.backend.messages import Ending, Generate, Tokens
from slipstream.backend.parameters import PipelineSettings
from slipstream.backend.pipeline import OpenVinoPipeline
from slipstream.backend.requests import Penalties, Sampling, StopRules
from slipstream.errors import SlipstreamError
from tests.fakes import checkpoints
from tests.fakes.checkpoints import TinyModel, write_checkpoint
from tests.fakes.engines import build

MODEL = TinyModel(dtype="bfloat16")
NAN, INFINITY = 70, 71  # tokens whose embeddings hold one
CLEAN = [5, 6, 10, 11]
SAMPLING = Sampling(temperature=1e30, top_k=20, top_p=None, seed=3)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        damage(patch, "model.embed_tokens.weight")
        yield build(write_checkpoint(tmp_path_factory.mktemp("damaged") / "checkpoint", MODEL, quant_algo="W8A16"))


def damage(patch: pytest.MonkeyPatch, name: str) -> None:
    """Checkpoints get a tensor that is not finite in two of its rows."""
    whole = checkpoints.hugging_face_weights

    def damaged(*arguments: Any) -> Mapping[str, Any]:
        weights = dict(whole(*arguments))
        tensor = np.array(weights[name], np.float32)
        tensor[NAN, 3], tensor[INFINITY, 3] = np.nan, np.inf
        return {**weights, name: tensor}

    patch.setattr(checkpoints, "hugging_face_weights", damaged)


@pytest.fixture(scope="module", params=["accuracy", "performance"])
def pipeline(engine: Path, request: pytest.FixtureRequest) -> OpenVinoPipeline:
    return OpenVinoPipeline(
        PipelineSettings(
            engine_dir=engine,
            execution=request.param,
            kv_cache_gib=1,
            kv_cache_tokens=4096,
            max_batch_size=8,
            max_num_tokens=512,
            enable_kv_cache_reuse=False,
            enable_chunked_context=True,
        )
    )


handles = iter(range(1000))


def generate(pipeline: OpenVinoPipeline, *prompts: list[int], **changes: Any) -> list[list[Tokens]]:
    """All that comes of each prompt; they run together."""
    stop = StopRules(max_new_tokens=4, min_new_tokens=0, end_id=100, stop_words=(), bad_words=())
    sampling, log_probs = changes.get("sampling"), changes.get("log_probs", False)
    running = [
        pipeline.add(Generate(next(handles), prompt, sampling, Penalties(), stop, (), log_probs)) for prompt in prompts
    ]
    got: list[list[Tokens]] = [[] for _ in prompts]
    while not all(tokens and tokens[-1].ending for tokens in got):
        pipeline.step()
        for generation, tokens in zip(running, got, strict=True):
            if not (tokens and tokens[-1].ending) and (new := generation.read()) is not None:
                tokens.append(new)
    return got


@pytest.mark.parametrize("token", [NAN, INFINITY], ids=["nan", "infinity"])
@pytest.mark.parametrize(
    "changes", [{}, {"log_probs": True}, {"sampling": SAMPLING}], ids=["greedy", "log-probs", "sampling"]
)
def test_the_request_ends_with_an_error_and_the_others_go_on(
    pipeline: OpenVinoPipeline, token: int, changes: dict[str, Any]
) -> None:
    alone = generate(pipeline, CLEAN, **changes)[0]
    clean, damaged = generate(pipeline, CLEAN, [5, 10, 11, token], **changes)
    assert [tokens.ids for tokens in clean] == [tokens.ids for tokens in alone]
    assert clean[-1].ending is Ending.LENGTH
    assert [(tokens.ids, tokens.ending, tokens.failure) for tokens in damaged] == [([], Ending.FAILED, NOT_FINITE)]


def test_an_output_layer_that_is_not_finite_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, "lm_head.weight")
    with pytest.raises(SlipstreamError, match="holds NaN or infinity"):
        build(write_checkpoint(tmp_path / "checkpoint", MODEL, quant_algo="W8A16"))
