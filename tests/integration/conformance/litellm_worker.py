"""Runs in LiteLLM's own environment: a request a line comes in, a reply or a refusal a line goes out."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib.metadata import version

import litellm
from replies import from_chat, from_chunks

litellm.suppress_debug_info = True
base, name = sys.argv[1:3]
print(json.dumps({"version": version("litellm")}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    try:
        answer = litellm.completion(
            api_base=f"{base}/v1",
            api_key="none",
            num_retries=0,
            **{**asked, "model": f"openai/{asked.get('model', name)}"},
        )
        reply = (
            from_chunks([part.model_dump() for part in answer])
            if asked.get("stream")
            else from_chat(answer.model_dump())
        )
        print(json.dumps({"reply": asdict(reply)}), flush=True)
    except Exception as error:  # noqa: BLE001 - its classes are of many kinds, and the reader of the line judges
        status = getattr(error, "status_code", None)
        print(json.dumps({"status": status, "message": f"{type(error).__name__}: {error}"}), flush=True)
