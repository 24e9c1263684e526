"""LiteLLM's proxy before the stub, with a key, as its users run it: one worker."""

from __future__ import annotations

import json
from pathlib import Path

from slipstream.perf.http_load import Target
from slipstream.perf.stub_gateway import MODEL, free_port

NAME = "LiteLLM proxy"
_KEY = "sk-bench"


def prepare_litellm(directory: Path, python: Path, *, stub_http: int) -> tuple[list[str], Target]:
    """Write its configuration into `directory`; the command that starts it, and how it is asked."""
    upstream = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{stub_http}/v1", "api_key": "none"}
    settings = {
        "model_list": [{"model_name": MODEL, "litellm_params": upstream}],
        "general_settings": {"master_key": _KEY},
    }
    config, port = directory / "litellm.yaml", free_port()
    config.write_text(json.dumps(settings))  # JSON is YAML
    program = python.parent / "litellm"
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    return command, Target(port=port, model=MODEL, key=_KEY)
