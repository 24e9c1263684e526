"""How a YAML file's groups become arguments of `LLM`."""

from __future__ import annotations

from typing import Any


def update_llm_args_with_extra_dict(llm_args: dict[str, Any], llm_args_dict: dict[str, Any]) -> dict[str, Any]:
    """Both together; the real one makes objects of some groups, which then refuse unknown names."""
    return {**llm_args, **llm_args_dict}
