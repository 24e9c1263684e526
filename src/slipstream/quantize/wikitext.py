"""Wikipedia's markup made into plain paragraphs: tables, templates, references, lists and headings are left out."""

from __future__ import annotations

import html
import re

MIN_PARAGRAPH = 80  # characters; what is shorter is a caption or a remnant of markup

_LEFT_OUT = (
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"<ref[^>]*/>", re.IGNORECASE),
    re.compile(
        r"<(ref|math|gallery|timeline|table|code|source|imagemap|score|hiero|pre)\b.*?</\1\s*>",
        re.DOTALL | re.IGNORECASE,
    ),
)
_MEASURE = re.compile(r"\{\{\s*(?:convert|cvt)\|([^{}|]+)\|([^{}|]+)[^{}]*\}\}", re.IGNORECASE)
_QUOTED = re.compile(r"\{\{\s*(?:lang\|[^{}|]+|nowrap|quote|transl\|[^{}|]+)\|([^{}|]+)[^{}]*\}\}", re.IGNORECASE)
_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
_TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\|\}", re.DOTALL)
_MEDIA = re.compile(r"\[\[\s*(?:file|image|category)\s*:[^\[\]]*\]\]", re.IGNORECASE)
_LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
_WEB_LINK = re.compile(r"\[(?:https?:)?//[^\s\]]*\s*([^\]]*)\]")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_EMPHASIS = re.compile(r"'{2,}")
_EMPTY_BRACKETS = re.compile(r"\s*\(\s*[;,:\s]*\)")
_AFTER_BRACKET = re.compile(r"\(\s*[;,]\s*")
_BEFORE_STOP = re.compile(r"\s+([,.;:!?)])")
_NOT_PROSE = ("*", "#", ":", ";", "=", "|", "!", "{", "}", "<", "_")


def plain_paragraphs(wikitext: str) -> list[str]:
    """The paragraphs of prose of one article, each in one line."""
    text = _without_markup(html.unescape(html.unescape(wikitext)))
    lines = (line.strip() for line in text.splitlines())
    prose = (_tidy(line) for line in lines if not line.startswith(_NOT_PROSE))
    return [line for line in prose if len(line) >= MIN_PARAGRAPH and line.endswith((".", "!", "?", '."', ".”", ".)"))]


def _without_markup(text: str) -> str:
    for pattern in _LEFT_OUT:
        text = pattern.sub("", text)
    text = _innermost_first(_MEASURE, r"\1 \2", text)
    text = _innermost_first(_QUOTED, r"\1", text)
    text = _innermost_first(_TEMPLATE, "", text)
    text = _innermost_first(_TABLE, "", text)
    text = _links(text)
    return _EMPHASIS.sub("", _TAG.sub("", _WEB_LINK.sub(r"\1", text)))


def _links(text: str) -> str:
    """Links become their words; a picture goes with its caption, whose own links went before it."""
    while (shorter := _LINK.sub(_words, _MEDIA.sub("", text))) != text:
        text = shorter
    return text


def _words(link: re.Match[str]) -> str:
    return link.group(0) if _MEDIA.fullmatch(link.group(0)) else link.group(1)


def _innermost_first(pattern: re.Pattern[str], replacement: str, text: str) -> str:
    while (shorter := pattern.sub(replacement, text)) != text:
        text = shorter
    return text


def _tidy(line: str) -> str:
    line = _AFTER_BRACKET.sub("(", _EMPTY_BRACKETS.sub("", line.replace("\u00a0", " ")))
    return " ".join(_BEFORE_STOP.sub(r"\1", line).split())
