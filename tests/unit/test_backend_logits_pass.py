"""The KV cache between two passes changes no logit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slipstream.backend.logits import Pass
from slipstream.backend.logits_pass import ForwardPass
from tests.fakes.checkpoints import TinyModel, write_checkpoint
from tests.fakes.engines import build

PASSES = (
    Pass([3, 4, 5, 6], 3),
    Pass([3, 4, 5, 6, 7, 8], 4),  # goes on
    Pass([3, 4, 5, 9, 2], 2),  # parts from the one before
    Pass([3, 4, 5, 9, 2], 4),  # the same again
    Pass([3, 4], 1),
    Pass([3, 4, 8], 0),  # from the first row on
    Pass(list(range(1, 45)) * 6, 263),  # more than one chunk
    Pass([7, 4, 8], 2),
)


@pytest.fixture(scope="module")
def engine_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(write_checkpoint(tmp_path_factory.mktemp("pass") / "checkpoint", TinyModel()))


def test_a_pass_gives_what_it_gives_alone(engine_dir: Path) -> None:
    forward = ForwardPass(engine_dir, "accuracy")
    for wanted in PASSES:
        alone = ForwardPass(engine_dir, "accuracy").rows(wanted)
        assert alone.shape == (len(wanted.ids) - wanted.first_row, 101)
        np.testing.assert_allclose(forward.rows(wanted), alone, atol=1e-4)


def test_only_what_is_new_is_computed(engine_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    infer = ForwardPass._infer

    def noting(forward: ForwardPass, ids: list[int], start: int) -> object:
        computed.append(len(ids))
        return infer(forward, ids, start)

    monkeypatch.setattr(ForwardPass, "_infer", noting)
    forward = ForwardPass(engine_dir, "accuracy")
    for wanted in PASSES:
        forward.rows(wanted)
    assert computed == [4, 2, 3, 1, 1, 3, 128, 128, 8, 3]
