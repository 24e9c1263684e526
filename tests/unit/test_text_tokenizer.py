"""A tokenizer directory is read as it is, and a broken one is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given

from slipstream.errors import SlipstreamError
from slipstream.text.tokenizer import Tokenizer
from tests.unit.small_tokenizers import END, byte_level, texts


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    byte_level().fast.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    return tmp_path


@given(text=texts())
def test_text_survives_the_round_trip(text: str) -> None:
    assert byte_level().decode(byte_level().encode(text), skip_special_tokens=False) == text


def test_the_end_comes_from_the_tokenizer_config_and_pads_too(directory: Path) -> None:
    tokenizer = Tokenizer.load(directory)
    assert tokenizer.eos_ids == byte_level().eos_ids
    assert tokenizer.pad_id == byte_level().eos_ids[0]
    assert tokenizer.bos_id is None


def test_a_generation_config_with_several_ends_goes_first(directory: Path) -> None:
    (directory / "generation_config.json").write_text('{"eos_token_id": [7, 9], "pad_token_id": 3, "bos_token_id": 1}')
    tokenizer = Tokenizer.load(directory)
    assert (tokenizer.eos_ids, tokenizer.pad_id, tokenizer.bos_id) == ((7, 9), 3, 1)


def test_a_token_written_as_an_object_is_understood(directory: Path) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": END, "special": True}}))
    assert Tokenizer.load(directory).eos_ids == byte_level().eos_ids


def test_padding_and_truncation_left_over_from_training_are_ignored(directory: Path) -> None:
    fast = byte_level().fast.from_file(str(directory / "tokenizer.json"))
    fast.enable_truncation(2)
    fast.enable_padding(length=50)
    fast.save(str(directory / "tokenizer.json"))
    assert Tokenizer.load(directory).encode("one two three") == byte_level().encode("one two three")


def test_special_tokens_can_be_kept_in_the_text() -> None:
    ids = [*byte_level().encode("fox"), *byte_level().eos_ids]
    assert byte_level().decode(ids) == "fox"
    assert byte_level().decode(ids, skip_special_tokens=False) == f"fox{END}"


def test_an_id_of_the_padded_vocabulary_has_no_text() -> None:
    beyond = byte_level().vocab_size
    assert byte_level().decode([*byte_level().encode("fox"), beyond]) == "fox"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "there is no tokenizer"),
        ("tokenizer.json", "{", "is not a tokenizer"),
        ("tokenizer_config.json", "{", "is not JSON"),
        ("generation_config.json", "[]", "holds no JSON object"),
    ],
)
def test_a_broken_file_is_named(directory: Path, name: str, content: str | None, message: str) -> None:
    if content is None:
        (directory / name).unlink()
    else:
        (directory / name).write_text(content)
    with pytest.raises(SlipstreamError, match=message) as caught:
        Tokenizer.load(directory)
    assert str(directory / name) in caught.value.message
    assert caught.value.mend
