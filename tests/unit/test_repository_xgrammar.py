"""The tokenizer file of guided decoding: what the backend reads, with every token at its id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as FastTokenizer

from slipstream.errors import SlipstreamError
from slipstream.repository.xgrammar_info import write_xgrammar_info
from tests.unit.small_tokenizers import byte_level

# A vocabulary with a hole: no token has id 2.
TOKENS = {"a": 0, "é": 1, "▁b": 3, "<end>": 4}


def a_model(directory: Path, **generation: Any) -> Path:
    directory.mkdir()
    fast = FastTokenizer(models.WordLevel(TOKENS, unk_token="a"))
    fast.add_special_tokens([AddedToken("<end>", special=True)])
    fast.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    if generation:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return directory


def written(model: Path, out: Path) -> dict[str, Any]:
    write_xgrammar_info(model, out)
    value: dict[str, Any] = json.loads(out.read_bytes())
    return value


def test_it_holds_what_the_backend_reads(tmp_path: Path) -> None:
    info = written(a_model(tmp_path / "model"), tmp_path / "info.json")
    assert set(info) == {"encoded_vocab", "tokenizer_str", "stop_token_ids"}
    assert all(isinstance(token, str) for token in info["encoded_vocab"])
    assert isinstance(info["tokenizer_str"], str)
    assert json.loads(info["tokenizer_str"])["model"]["type"] == "WordLevel"


def test_each_token_stands_at_its_id(tmp_path: Path) -> None:
    info = written(a_model(tmp_path / "model"), tmp_path / "info.json")
    assert info["encoded_vocab"] == ["a", "é", "", "▁b", "<end>"]


def test_the_end_is_the_one_that_requests_are_told(tmp_path: Path) -> None:
    assert written(a_model(tmp_path / "plain"), tmp_path / "a.json")["stop_token_ids"] == [4]
    several = a_model(tmp_path / "several", eos_token_id=[3, 4])
    assert written(several, tmp_path / "b.json")["stop_token_ids"] == [3]


def test_the_file_is_ascii_whatever_the_tokens_are(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    byte_level().fast.save(str(directory / "tokenizer.json"))
    (directory / "generation_config.json").write_text('{"eos_token_id": 0}')
    info = written(directory, tmp_path / "info.json")
    assert (tmp_path / "info.json").read_bytes().isascii()
    assert len(info["encoded_vocab"]) == byte_level().vocab_size


def test_a_tokenizer_that_never_ends_is_refused(tmp_path: Path) -> None:
    model = a_model(tmp_path / "model")
    (model / "tokenizer_config.json").unlink()
    with pytest.raises(SlipstreamError, match="no token ends a text"):
        write_xgrammar_info(model, tmp_path / "info.json")
    assert not (tmp_path / "info.json").exists()


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlipstreamError, match="there is no tokenizer"):
        write_xgrammar_info(tmp_path, tmp_path / "info.json")
