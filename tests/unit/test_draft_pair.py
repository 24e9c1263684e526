"""A draft model must speak its target's token ids; and what it would gain follows from where the two agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken

from slipstream.errors import SlipstreamError
from slipstream.quantize.acceptance import measure_acceptance
from slipstream.quantize.draft import check_padded_vocabularies, compare_tokenizers
from tests.unit.small_tokenizers import byte_fallback, byte_level


def model(directory: Path, content: str) -> Path:
    directory.mkdir()
    (directory / "tokenizer.json").write_text(content)
    return directory


def byte_level_text() -> str:
    return str(byte_level().fast.to_str())


def checkpoint(directory: Path, vocab_size: object) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"vocab_size": vocab_size}))
    return directory


def test_one_tokenizer_in_two_directories_is_a_pair(tmp_path: Path) -> None:
    target, draft = model(tmp_path / "t", byte_level_text()), model(tmp_path / "d", byte_level_text())
    pair = compare_tokenizers(target, draft)
    assert pair.shared_tokens == len(byte_level().fast.get_vocab())
    assert pair.renamed_special_tokens == {}


def test_tokens_that_changed_places_are_found_though_the_sizes_agree(tmp_path: Path) -> None:
    settings = json.loads(byte_level_text())
    vocabulary = settings["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    target, draft = model(tmp_path / "t", byte_level_text()), model(tmp_path / "d", json.dumps(settings))
    first = min(vocabulary["a"], vocabulary["b"])
    with pytest.raises(SlipstreamError, match=f"2 of the draft's .* the first is {first}: ") as caught:
        compare_tokenizers(target, draft)
    assert "same tokenizer" in caught.value.mend


def test_another_family_is_refused(tmp_path: Path) -> None:
    target, draft = model(tmp_path / "t", byte_level_text()), model(tmp_path / "d", str(byte_fallback().fast.to_str()))
    with pytest.raises(SlipstreamError, match="mean another text to the target"):
        compare_tokenizers(target, draft)


def test_a_reserved_token_under_another_name_is_only_noted(tmp_path: Path) -> None:
    def with_special(name: str) -> str:
        fast = type(byte_level().fast).from_str(byte_level_text())
        fast.add_special_tokens([AddedToken(name, special=True)])
        return str(fast.to_str())

    target, draft = model(tmp_path / "t", with_special("<|pad|>")), model(tmp_path / "d", with_special("<|reserved|>"))
    renamed = compare_tokenizers(target, draft).renamed_special_tokens
    assert list(renamed.values()) == [("<|pad|>", "<|reserved|>")]


def test_padding_of_the_vocabulary_rules_out_logits_and_no_more(tmp_path: Path) -> None:
    tokenizer = model(tmp_path / "t", byte_level_text())
    size = len(byte_level().fast.get_vocab())
    whole, padded = checkpoint(tmp_path / "whole", size), checkpoint(tmp_path / "padded", size + 28)
    assert check_padded_vocabularies(whole, whole, tokenizer) is None
    assert "use_draft_logits" in (check_padded_vocabularies(whole, padded, tokenizer) or "")


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(tmp_path: Path) -> None:
    tokenizer = model(tmp_path / "t", byte_level_text())
    size = len(byte_level().fast.get_vocab())
    whole, cut = checkpoint(tmp_path / "whole", size), checkpoint(tmp_path / "cut", size - 1)
    with pytest.raises(SlipstreamError, match=f"vocab_size is {size - 1}, the tokenizer has {size} tokens"):
        check_padded_vocabularies(whole, cut, tokenizer)


@pytest.mark.parametrize(
    ("agrees", "max_draft_len", "tokens_per_step"),
    [
        ([[False] * 6], 3, 1.0),
        ([[True] * 8], 3, 4.0),  # three accepted and the target's own, twice
        ([[True, False, True, False]], 3, 2.0),
        ([[True, True, False, True]], 1, 4 / 3),  # one draft token a step: the second token is the target's own
        ([[True] * 4, [False] * 4], 3, 8 / 5),
    ],
)
def test_the_steps_are_those_of_the_speculating_engine(
    agrees: list[list[bool]], max_draft_len: int, tokens_per_step: float
) -> None:
    assert measure_acceptance(agrees, max_draft_len).tokens_per_step == pytest.approx(tokens_per_step)


def test_the_interval_holds_the_share_and_narrows() -> None:
    few, many = measure_acceptance([[True, False]], 3), measure_acceptance([[True, False] * 200], 3)
    for found in (few, many):
        assert found.agreement_low < found.agreement == 0.5 < found.agreement_high
    assert many.agreement_high - many.agreement_low < few.agreement_high - few.agreement_low
