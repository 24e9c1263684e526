"""The texts of the installed package, and Wikipedia's markup made plain."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError

import pytest

from slipstream.errors import SlipstreamError
from slipstream.quantize import corpora
from slipstream.quantize.corpora import CORPORA, packaged_text
from slipstream.quantize.wikitext import plain_paragraphs

LONG = "This sentence stands here so that the paragraph is long enough to be taken for prose by the cleaner."


def paragraph(text: str) -> str:
    found = plain_paragraphs(f"{text} {LONG}")
    assert len(found) == 1
    return found[0].removesuffix(LONG).strip()


@pytest.mark.parametrize(
    ("markup", "plain"),
    [
        ("'''Bold''' and ''italic''.", "Bold and italic."),
        ("[[state (polity)|States]] and [[law]].", "States and law."),
        ("Said.&lt;ref name=&quot;a&quot;&gt;{{cite|x}} A note.&lt;/ref&gt; More.&lt;ref name=b/&gt;", "Said. More."),
        ("One{{efn|a {{nested}} note}} two.", "One two."),
        ("Far: {{convert|5|km|mi}} away.", "Far: 5 km away."),
        ("[[File:a.jpg|thumb|A [[cat]] and [[dog|a dog]].]]Seen.", "Seen."),
        ("See [http://example.org the page].", "See the page."),
        ("A name ({{IPA|x}}; ) here.", "A name here."),
        ("Fish &amp;amp; chips<!-- note -->.", "Fish & chips."),
        ("{| class=x\n| {| inner |} a\n|}After.", "After."),
    ],
)
def test_markup_becomes_prose(markup: str, plain: str) -> None:
    assert paragraph(markup) == plain


@pytest.mark.parametrize("line", ["== Heading ==", f"* {LONG}", f"| {LONG}", f": {LONG}", "Too short."])
def test_headings_lists_and_remnants_are_left_out(line: str) -> None:
    assert plain_paragraphs(f"{line}\n{LONG}") == [LONG]


@pytest.mark.parametrize(
    ("name", "characters", "held_out", "digest"),
    [("wikipedia", 2_469_445, 542_577, "9511e4e38bb0b28c"), ("news", 360_080, 89_322, "32f894851589280a")],
)
def test_a_corpus_is_the_same_characters_everywhere(name: str, characters: int, held_out: int, digest: str) -> None:
    text = packaged_text(name)  # type: ignore[arg-type]
    assert (len(text.calibration) + len(text.held_out), len(text.held_out)) == (characters, held_out)
    assert hashlib.sha256((text.calibration + text.held_out).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("name", CORPORA)
def test_the_held_out_part_shares_no_paragraph_with_calibration(name: str) -> None:
    text = packaged_text(name)  # type: ignore[arg-type]
    calibration = {line for line in text.calibration.splitlines() if len(line) > 120}
    held_out = {line for line in text.held_out.splitlines() if len(line) > 120}
    assert len(calibration) > len(held_out) > 50
    assert not calibration & held_out


def test_almost_no_markup_is_left_in_the_articles() -> None:
    text = packaged_text("wikipedia")
    whole = text.calibration + text.held_out
    assert not any(mark in whole for mark in ("{{", "}}", "<ref", "http://", "'''", "&amp;"))


def test_a_missing_package_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(corpora, "distribution", missing)
    with pytest.raises(SlipstreamError, match="the package gensim, which carries it, is not installed") as raised:
        packaged_text("news")
    assert raised.value.mend == "pip install --no-deps gensim==4.4.0"


def test_a_version_without_the_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(corpora._FILES, "news", "elsewhere.cor")
    with pytest.raises(SlipstreamError, match=r"gensim 4\.4\.0 has no elsewhere\.cor"):
        packaged_text("news")
