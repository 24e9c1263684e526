"""Chat templates render as transformers renders them, without transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from slipstream.errors import SlipstreamError
from slipstream.text.chat_template import ChatTemplate

MESSAGES = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": "Où est-il? 你好"},
    {"role": "assistant", "content": "Here.\n\n"},
    {"role": "user", "content": "Thanks"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "a < b", "parameters": {"type": "object"}}}]
TEMPLATES = {
    "plain": "{% for m in messages %}<|{{ m['role'] }}|>{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "whitespace rules": "{{ bos_token }}\n    {% for m in messages %}\n  {% if m.role == 'user' %}\n[U] "
    "{{ m.content }}\n    {%- else %}\n[O] {{ m.content | trim }}\n  {% endif %}\n    {% endfor %}\nend\n",
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "tools as JSON": "{% if tools %}{{ tools | tojson }}{{ tools | tojson(indent=2) }}{% endif %}.",
    "generation tag": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% endif %}{% endfor %}.",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("prompt", [True, False])
def test_it_renders_as_transformers_does(template: str, tools: list | None, prompt: bool) -> None:
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    rendered, _ = render_jinja_template(
        [MESSAGES], tools=tools, chat_template=template, add_generation_prompt=prompt, **special
    )
    ours = ChatTemplate(template, special_tokens=special)
    assert ours.render(MESSAGES, add_generation_prompt=prompt, tools=tools) == rendered[0]


def write(directory: Path, **config: object) -> Path:
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def test_the_jinja_file_goes_before_the_tokenizer_config(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("file {{ eos_token }}")
    write(tmp_path, chat_template="config", eos_token={"content": "</s>"})
    assert ChatTemplate.load(tmp_path).render(MESSAGES) == "file </s>"


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    write(tmp_path, chat_template=[{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}])
    assert ChatTemplate.load(tmp_path).render(MESSAGES) == "d"


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    with pytest.raises(SlipstreamError, match="has no chat template"):
        ChatTemplate.load(write(tmp_path))


def test_what_the_template_refuses_is_told_in_its_own_words() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", special_tokens={})
    with pytest.raises(SlipstreamError, match="roles must alternate"):
        template.render(MESSAGES)


def test_a_message_without_content_is_refused() -> None:
    template = ChatTemplate("{{ 'a' + messages[0]['content'] }}", special_tokens={})
    with pytest.raises(SlipstreamError, match="content"):
        template.render([{"role": "user"}])


def test_a_template_cannot_reach_python() -> None:
    template = ChatTemplate("{{ messages.__class__.__mro__[1].__subclasses__() }}", special_tokens={})
    with pytest.raises(SlipstreamError, match="unsafe"):
        template.render(MESSAGES)


def test_broken_jinja_is_refused() -> None:
    with pytest.raises(SlipstreamError, match="not valid Jinja"):
        ChatTemplate("{% for %}", special_tokens={}).render(MESSAGES)
