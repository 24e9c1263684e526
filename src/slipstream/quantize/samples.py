"""Token samples from a text: the same text, counts and seed give the same samples."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

from slipstream.errors import SpecError
from slipstream.quantize.corpora import packaged_text
from slipstream.quantize.recipe_schema import Calibration, Evaluation, TextSource
from slipstream.text.chat_template import ChatTemplate
from slipstream.text.tokenizer import Tokenizer

_WRITE_TEXT = 'write "text": "…"'
_OR_CHAT = ', or "messages": [{"role": "user", "content": "…"}] with chat_template: true'
_TEXT_ALONE = ("a text", _WRITE_TEXT)


def calibration_samples(
    tokenizer: Tokenizer, text: str | None, settings: Calibration, template: ChatTemplate | None = None
) -> list[list[int]]:
    """`samples` stretches of the text, chosen by the seed, in the text's order.

    `text` is the content of the recipe's file; None for a packaged corpus, of which the calibration part is read.
    `template` renders each paragraph or line, for a recipe that says `chat_template`.
    """
    assert (template is not None) == settings.chat_template, "the caller loads the template that the recipe asks for"
    content = packaged_text(settings.corpus).calibration if settings.corpus else text
    stretches = _stretches(tokenizer, _documents(content or "", settings, template), settings)
    order = random.Random(settings.seed)  # noqa: S311 - reproducible, not secret
    chosen = order.sample(range(len(stretches)), settings.samples)
    return [stretches[index] for index in sorted(chosen)]


def evaluation_samples(tokenizer: Tokenizer, text: str | None, settings: Evaluation) -> list[list[int]]:
    """The first `samples` stretches of the text; of a packaged corpus, of its held-out part."""
    content = packaged_text(settings.corpus).held_out if settings.corpus else text
    return _stretches(tokenizer, _documents(content or "", settings, None), settings)[: settings.samples]


def _documents(content: str, settings: TextSource, template: ChatTemplate | None) -> Iterator[str]:
    if settings.jsonl is not None:
        for number, line in enumerate(content.split("\n"), 1):  # not at U+2028, which JSON allows in a text
            if line.strip():
                yield _of_line(line, f"{settings.jsonl}: line {number}", settings, template)
    elif template is not None:
        for paragraph in filter(None, map(str.strip, content.split("\n\n"))):
            yield _rendered([{"role": "user", "content": paragraph}], template)
    else:
        yield content


def _of_line(line: str, where: str, settings: TextSource, template: ChatTemplate | None) -> str:
    field, may_be_chat = settings.field, isinstance(settings, Calibration)
    value = _field(line, where, field)
    if isinstance(value, str):
        return value if template is None else _rendered([{"role": "user", "content": value}], template)
    is_chat = isinstance(value, list) and value and all(isinstance(message, dict) for message in value)
    if not is_chat:
        what, mend = ("a text or a list of messages", f"{_WRITE_TEXT}{_OR_CHAT}") if may_be_chat else _TEXT_ALONE
        raise SpecError(f"{where}: {field} is {type(value).__name__}, {what} is expected", mend=mend)
    if not may_be_chat:
        raise SpecError(
            f"{where}: {field} holds messages of a chat; evaluation measures perplexity on plain text and has no chat"
            " template",
            mend=f"name another file, or another key with `field`, whose lines hold a text: {_WRITE_TEXT}",
        )
    if template is None:
        raise SpecError(
            f"{where}: {field} holds messages of a chat, and the recipe does not use the model's template",
            mend="set calibration.chat_template to true",
        )
    return _rendered(value, template)


def _field(line: str, where: str, field: str) -> Any:
    try:
        value = json.loads(line)
        line.encode() and json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{where}: is not JSON ({error})", mend="write one whole JSON object per line") from error
    if not isinstance(value, dict) or field not in value:
        found = f"an object with {', '.join(value) or 'no key'}" if isinstance(value, dict) else type(value).__name__
        raise SpecError(
            f"{where}: has no field {field!r}, found {found}",
            mend="name the key that holds the text with `field` in the recipe",
        )
    return value[field]


def _rendered(messages: Sequence[dict[str, Any]], template: ChatTemplate) -> str:
    return template.render(messages, add_generation_prompt=False)


def _stretches(tokenizer: Tokenizer, documents: Iterator[str], settings: TextSource) -> list[list[int]]:
    """The documents one after another, cut into stretches of `tokens_per_sample`; a shorter rest is left out."""
    ids = [token for text in documents for token in tokenizer.encode(text, add_special_tokens=False)]
    length = settings.tokens_per_sample
    count = len(ids) // length
    if count < settings.samples:
        raise SpecError(
            f"{settings.name}: has {len(ids)} tokens, the recipe wants {settings.samples} x {length}",
            mend="lower samples or tokens_per_sample in the recipe, or give a longer text",
        )
    return [ids[index * length : (index + 1) * length] for index in range(count)]
