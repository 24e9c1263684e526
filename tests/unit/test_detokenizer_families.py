"""The detokenizer on many families of tokenizers: a sample of the streams of perf/detokenizer.py, and its result."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from slipstream.perf.detokenizer_streams import Family
from slipstream.perf.tokenizer_families import CALL, END, families
from slipstream.text.detokenizer import Detokenizer

STREAMS = 120
WRITTEN = "a 👩‍👩‍👧‍👦 e\u0301 b, don't 日本 「役」 ¤ x  y"


@pytest.mark.parametrize("name", families())
def test_any_ids_cut_anywhere_give_the_one_shot_text(name: str) -> None:
    family, rng = Family(name, families()[name]()), random.Random()
    for _ in range(STREAMS):
        family.try_one(rng)
    assert not family.failures
    assert family.pieces > STREAMS


@pytest.mark.parametrize("name", [name for name in families() if "byte" in name or "tiktoken" in name])
def test_what_is_written_comes_out_token_by_token_without_a_broken_character(name: str) -> None:
    tokenizer = families()[name]()
    text = WRITTEN.replace("e\u0301", "é")  # two of them normalize
    ids = [*tokenizer.encode(text), tokenizer.fast.token_to_id(CALL), *tokenizer.eos_ids]
    detokenizer = Detokenizer(tokenizer)
    pieces = [*(detokenizer.push([token]) for token in ids), detokenizer.finish()]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces).removeprefix(" ") == text + CALL
    assert tokenizer.decode(ids, skip_special_tokens=False).endswith(CALL + END)


def test_a_million_streams_were_tried_and_none_failed(root: Path) -> None:
    result = json.loads((root / "perf" / "results" / "detokenizer.json").read_text())
    assert result["streams"] >= 1_000_000
    assert result["failed_streams"] == 0
    tried = {row["family"] for row in result["families"]}
    assert tried >= set(families())
    assert len(tried) >= 12
