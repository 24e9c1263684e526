"""Rules between the models of one repository: the streaming profile and the one of draft-target speculation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.errors import SlipstreamError
from slipstream.repository.placement import Placement, refusal

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_TRUE = {"true", "True", "TRUE", "1"}
_TARGET, _DRAFT, _BLS = "tensorrt_llm", "tensorrt_llm_draft", "tensorrt_llm_bls"
_FAST_LOGITS = "speculative_decoding_fast_logits"


def check_profile(path: Path, configs: Mapping[str, ModelConfig]) -> None:
    """Raise SlipstreamError where the models of the repository at `path` do not fit together."""
    profile = _Profile(path=path, configs=configs)
    engines = [name for name in (_TARGET, _DRAFT) if name in configs]
    profile.check_decoupled([*engines, _BLS])
    profile.check_callees()
    profile.check_batch_sizes()
    if _DRAFT in configs:
        for name in engines:
            profile.check_speculation(name)
        profile.check_fast_logits(engines)
    if configs[_TARGET].backend == "python":
        return  # the embedded engine has no ranks and no GPU
    placement = Placement(path=path, configs={name: configs[name] for name in engines})
    placement.check_ranks()
    placement.check_gpus()
    placement.check_memory()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Profile:
    path: Path
    configs: Mapping[str, ModelConfig]

    def check_decoupled(self, names: list[str]) -> None:
        """BLS hands on what the engines send: all stream, or none does."""
        wanted = self.configs[_TARGET].model_transaction_policy.decoupled
        for name in names:
            decoupled = self.configs[name].model_transaction_policy.decoupled
            if decoupled != wanted:
                raise self._refusal(name, "decoupled", _word(decoupled), f"{_word(wanted)} as in {_TARGET}")

    def check_callees(self) -> None:
        """The models that BLS calls exist, and a draft is not left unused."""
        for key in ("tensorrt_llm_model_name", "tensorrt_llm_draft_model_name"):
            name = self._parameter(_BLS, key)
            if name is not None and name not in self.configs:
                raise self._refusal(_BLS, key, name, "a model of this repository")
        if _DRAFT in self.configs and self._parameter(_BLS, "tensorrt_llm_draft_model_name") is None:
            raise self._refusal(_BLS, "tensorrt_llm_draft_model_name", "absent", _DRAFT)

    def check_batch_sizes(self) -> None:
        """Triton refuses an ensemble that takes larger batches than one of its models."""
        ensemble = self.configs["ensemble"]
        for step in ensemble.ensemble_scheduling.step:
            limit = self.configs[step.model_name].max_batch_size
            if ensemble.max_batch_size > limit:
                expected = f"{limit} or less as in {step.model_name}"
                raise self._refusal("ensemble", "max_batch_size", str(ensemble.max_batch_size), expected)

    def check_speculation(self, name: str) -> None:
        """Upstream's BLS takes one response a call, reads the prompt echoed in it, and relies on reused KV blocks."""
        if self.configs[name].model_transaction_policy.decoupled:
            raise self._refusal(name, "decoupled", "true", "false to speculate")
        for key, wanted in (("exclude_input_in_output", False), ("enable_kv_cache_reuse", True)):
            text = self._parameter(name, key)
            if text is None or (text in _TRUE) != wanted:
                raise self._refusal(name, key, text or "absent", f"{_word(wanted)} to speculate")
        decoding_mode = self._parameter(name, "decoding_mode")
        if decoding_mode is not None:
            raise self._refusal(name, "decoding_mode", decoding_mode, "absent to speculate")

    def check_fast_logits(self, engines: list[str]) -> None:
        """Logits go from GPU to GPU only between ranks that an orchestrator did not spawn, and with both ends on."""
        are_on = {name: self._parameter(name, _FAST_LOGITS) in _TRUE for name in engines}
        if not any(are_on.values()):
            return
        for name, is_on in are_on.items():
            if not is_on:
                raise self._refusal(name, _FAST_LOGITS, "not on", "on in both engines, or in none")
        for name in engines:
            if self._parameter(name, "participant_ids") is None:
                raise self._refusal(name, "participant_ids", "absent", f"ranks: {_FAST_LOGITS} needs them")

    def _parameter(self, name: str, key: str) -> str | None:
        parameters = self.configs[name].parameters
        return parameters[key].string_value if key in parameters else None

    def _refusal(self, name: str, key: str, found: str, expected: str) -> SlipstreamError:
        return refusal(self.path, name, key, found, expected)


def _word(value: bool) -> str:
    return "true" if value else "false"
