"""Calibration samples: the same for the same seed, from a text file, JSONL, a chat or a packaged corpus."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slipstream.errors import SpecError
from slipstream.quantize import samples
from slipstream.quantize.corpora import PackagedText
from slipstream.quantize.recipes import Calibration, Evaluation
from slipstream.quantize.samples import calibration_samples, evaluation_samples
from slipstream.text.chat_template import ChatTemplate
from tests.unit.small_tokenizers import byte_level

TEXT = "The quick brown fox jumps over the lazy dog. " * 40
TEMPLATE = ChatTemplate(
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}", special_tokens={}
)


def of_lines(*lines: Any, **settings: Any) -> list[list[int]]:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    chosen = {"jsonl": "c.jsonl", "samples": 1, "tokens_per_sample": 8} | settings
    calibration = Calibration.model_validate(chosen)
    return calibration_samples(byte_level(), text, calibration, TEMPLATE if calibration.chat_template else None)


def text_of(stretches: list[list[int]]) -> str:
    return byte_level().decode([token for stretch in stretches for token in stretch])


def test_the_same_seed_takes_the_same_samples() -> None:
    settings = Calibration(text="t", samples=3, tokens_per_sample=16, seed=1)
    first, again = (calibration_samples(byte_level(), TEXT, settings) for _ in range(2))
    assert first == again
    assert [len(sample) for sample in first] == [16, 16, 16]
    assert first != calibration_samples(byte_level(), TEXT, settings.model_copy(update={"seed": 2}))


def test_evaluation_reads_the_text_from_its_beginning() -> None:
    stretches = evaluation_samples(byte_level(), TEXT, Evaluation(text="t", samples=2, tokens_per_sample=16))
    assert [token for sample in stretches for token in sample] == byte_level().encode(TEXT)[:32]


def test_a_text_that_is_too_short_is_refused_with_the_numbers() -> None:
    with pytest.raises(SpecError, match=r"t\.txt: has \d+ tokens, the recipe wants 4 x 256"):
        evaluation_samples(byte_level(), "short", Evaluation(text="t.txt", samples=4, tokens_per_sample=256))


def test_jsonl_is_read_line_by_line_by_its_field() -> None:
    found = of_lines({"body": "one two three four"}, "", {"body": " five six seven eight"}, field="body")
    assert text_of(found) in "one two three four five six seven eight"


def test_a_line_may_hold_separators_that_are_no_line_ends() -> None:
    found = of_lines('{"text": "one two three\u2028four five six seven"}')
    assert [len(sample) for sample in found] == [8]


@pytest.mark.parametrize("line", ['{"text": "\\ud800"}', "[" * 100_000], ids=["surrogate", "nested"])
def test_a_line_that_is_no_text_is_named(line: str) -> None:
    with pytest.raises(SpecError, match="line 1: is not JSON"):
        of_lines(line)


def test_paragraphs_go_through_the_chat_template() -> None:
    settings = Calibration(text="t", samples=1, tokens_per_sample=40, chat_template=True)
    found = text_of(calibration_samples(byte_level(), "Good morning.\n\nGood evening.\n\n" * 9, settings, TEMPLATE))
    assert "<user>Good" in found
    assert "\n" not in found


def test_a_chat_of_several_turns_goes_through_the_template() -> None:
    chat = [{"role": "user", "content": "Why is it so?"}, {"role": "assistant", "content": "It is not so at all."}]
    found = of_lines({"messages": chat}, field="messages", chat_template=True, tokens_per_sample=40)
    assert text_of(found).startswith("<user>Why is it so?<assistant>It is")


@pytest.mark.parametrize(
    ("line", "settings", "message", "mend"),
    [
        ("{text: x}", {}, r"c\.jsonl: line 2: is not JSON", "one whole JSON object per line"),
        ('["x"]', {}, "line 2: has no field 'text', found list", "`field`"),
        ({"body": "x"}, {}, "line 2: has no field 'text', found an object with body", "`field`"),
        ({"text": 7}, {}, "line 2: text is int", "messages"),
        ({"text": [{"role": "user", "content": "x"}]}, {}, "line 2: text holds messages of a chat", "chat_template"),
        ({"text": []}, {"chat_template": True}, "line 2: text is list", "messages"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: Any, settings: dict[str, Any], message: str, mend: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        of_lines({"text": "one two three four"}, line, **settings)
    assert mend in caught.value.mend


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"role": "user", "content": "x"}], "text holds messages of a chat; evaluation measures perplexity on plain"),
        (7, "text is int, a text is expected"),
    ],
)
def test_an_evaluation_is_never_told_to_use_a_template_that_it_has_no_setting_for(value: Any, message: str) -> None:
    settings = Evaluation(jsonl="e.jsonl", samples=1, tokens_per_sample=8)
    with pytest.raises(SpecError, match=message) as caught:
        evaluation_samples(byte_level(), json.dumps({"text": value}), settings)
    assert 'write "text": "…"' in caught.value.mend
    assert "chat_template" not in caught.value.mend


def test_a_corpus_calibrates_and_evaluates_on_different_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = PackagedText(calibration="Calibrate on this. " * 9, held_out="Evaluate on that. " * 9)
    monkeypatch.setattr(samples, "packaged_text", lambda name: parts if name == "news" else None)
    source = {"corpus": "news", "samples": 1, "tokens_per_sample": 12}
    calibration = calibration_samples(byte_level(), None, Calibration.model_validate(source))
    evaluation = evaluation_samples(byte_level(), None, Evaluation.model_validate(source))
    assert text_of(calibration) in parts.calibration
    assert text_of(evaluation) in parts.held_out
