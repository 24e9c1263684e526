"""Health that means something: a token came out. (Triton's own readiness stays true when a stub is dead.)"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A request for one token, and the model that takes text."""

    model: str
    body: Mapping[str, Any]


TEXT_PROBE = Probe(model="ensemble", body={"text_input": "Hello", "max_tokens": 1, "stream": False})
# The LLM API has one model, and its own names for the same.
LLMAPI_PROBE = Probe(
    model="tensorrt_llm", body={"text_input": "Hello", "sampling_param_max_tokens": 1, "streaming": False}
)

_ITERATIONS = re.compile(
    r'^nv_trt_llm_general_metrics\{[^}]*general_type="iteration_counter"[^}]*\} (\S+)$', re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Health:
    """Asks one Triton server; addresses are host:port."""

    address: str
    metrics_address: str
    probe: Probe = TEXT_PROBE

    def first_token(self, model: str | None = None, timeout_s: float = 10.0) -> bool:
        """Whether `model`, else the probe's, generates a token within `timeout_s`."""
        status, body = self._post(f"/v2/models/{model or self.probe.model}/generate", self.probe.body, timeout_s)
        # Triton answers some failures of decoupled models with 200 and an error in the body.
        return status == http.client.OK and "text_output" in body and "error" not in body

    def iterations(self) -> float | None:
        """How many steps the engine has made; None if the server does not say."""
        connection = http.client.HTTPConnection(self.metrics_address, timeout=5)
        try:
            connection.request("GET", "/metrics")
            found = _ITERATIONS.search(connection.getresponse().read().decode())
            return float(found[1]) if found else None
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def _post(self, path: str, body: Mapping[str, Any], timeout_s: float) -> tuple[int, dict[str, Any]]:
        """Status and JSON body; status 0 when there was no answer."""
        connection = http.client.HTTPConnection(self.address, timeout=timeout_s)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = json.loads(response.read() or b"{}")
            return response.status, content if isinstance(content, dict) else {}
        except (OSError, http.client.HTTPException, ValueError):
            return 0, {}
        finally:
            connection.close()


def has_answered(health: Health) -> bool:
    """One patient probe: the first token after a start pays for allocations."""
    return health.first_token(timeout_s=30.0)
