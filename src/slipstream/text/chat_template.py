"""A model's own chat template: messages to the prompt text, as transformers' `apply_chat_template` renders it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.errors import SlipstreamError
from slipstream.text.tokenizer import read_json, special_token

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, Any]  # {"role": …, "content": …}; a template may read more keys
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ChatTemplate:
    """Renders a conversation into the prompt that the model was trained on."""

    def __init__(self, source: str, *, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens)

    @classmethod
    def load(cls, directory: Path | str) -> ChatTemplate:
        """Read the template of the model in `directory`: chat_template.jinja, else tokenizer_config.json's."""
        directory = Path(directory)
        settings = read_json(directory / "tokenizer_config.json", required=False)
        tokens = {name: token for name in SPECIAL_TOKENS if (token := special_token(settings, name)) is not None}
        return cls(_source(directory, settings), special_tokens=tokens)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The prompt text; it already holds the special tokens, so encode it with `add_special_tokens=False`."""
        import jinja2

        try:
            return _compile(self.source).render(
                messages=list(messages),
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            raise SlipstreamError(
                f"messages: the model's chat template refuses them ({error})",
                mend="give each message a role and a content, in the order of roles that the model knows",
            ) from error


def _source(directory: Path, settings: Mapping[str, Any]) -> str:
    jinja_file = directory / "chat_template.jinja"
    if jinja_file.is_file():
        return jinja_file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several templates by name, as older checkpoints write them
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if not isinstance(template, str):
        raise SlipstreamError(
            f"{directory}: the model has no chat template",
            mend="send plain text_input, or use the instruct variant of the model",
        )
    return template


@lru_cache(maxsize=16)
def _compile(source: str) -> Template:
    """The template in a sandbox, with the functions and the whitespace rules that templates are written for."""
    from jinja2.exceptions import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_tag()]
    )
    sandbox.filters["tojson"] = _to_json  # Jinja's own escapes HTML characters
    sandbox.globals["raise_exception"] = raise_exception
    sandbox.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    try:
        return sandbox.from_string(source)
    except TemplateError as error:
        raise SlipstreamError(
            f"chat template: is not valid Jinja ({error})", mend="fetch or prepare the model again"
        ) from error


def _generation_tag() -> type[Any]:
    """`{% generation %}…{% endgeneration %}` marks what a trainer learns from; for a prompt it is plain text."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class GenerationTag(Extension):
        tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return GenerationTag


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
