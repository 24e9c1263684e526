"""Rules between the models of one repository: the streaming profile and the one of draft-target speculation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.errors import SlipstreamError

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_TRUE = {"true", "True", "TRUE", "1"}
_TARGET, _DRAFT, _BLS = "tensorrt_llm", "tensorrt_llm_draft", "tensorrt_llm_bls"
_FRACTION = "kv_cache_free_gpu_mem_fraction"


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
        profile.check_shared_memory()


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

    def check_shared_memory(self) -> None:
        """Each of two models on a GPU says its share; the backend's default of 0.9 for both does not fit."""
        fractions = []
        for name in (_TARGET, _DRAFT):
            text = self._parameter(name, _FRACTION)
            if text is None:
                raise self._refusal(name, _FRACTION, "absent", "a share: two models use the GPU")
            fractions.append(float(text))
        if sum(fractions) >= 1:
            both = " + ".join(f"{fraction:g}" for fraction in fractions)
            raise self._refusal(_DRAFT, _FRACTION, f"{both} with the target's", "a sum below 1")

    def _parameter(self, name: str, key: str) -> str | None:
        parameters = self.configs[name].parameters
        return parameters[key].string_value if key in parameters else None

    def _refusal(self, name: str, key: str, found: str, expected: str) -> SlipstreamError:
        return SlipstreamError(
            f"{self.path / name / 'config.pbtxt'}: {key} is {found}, expected {expected}",
            mend="correct engine and runtime in the deployment file and render again: slipstream render NAME",
        )


def _word(value: bool) -> str:
    return "true" if value else "false"
