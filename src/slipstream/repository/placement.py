"""Rules for where the engines of one repository run: MPI ranks, GPUs, and shares of a GPU's memory.

Rules of the executor: TensorRT-LLM, cpp/tensorrt_llm/executor/executorImpl.cpp (@036a60f7ff92) and
triton_backend/inflight_batcher_llm/src/model_instance_state.cc (@0c8de69a1ca6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.errors import SlipstreamError
from slipstream.repository.ranks import Groups, groups

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_GPUS, _RANKS, _FRACTION = "gpu_device_ids", "participant_ids", "kv_cache_free_gpu_mem_fraction"


def refusal(path: Path, model: str, key: str, found: str, expected: str) -> SlipstreamError:
    """The error of one key in one model of the repository at `path`."""
    return SlipstreamError(
        f"{path / model / 'config.pbtxt'}: {key} is {found}, expected {expected}",
        mend="correct engine and runtime in the deployment file and render again: slipstream render NAME",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The models of one repository that load an engine."""

    path: Path
    configs: Mapping[str, ModelConfig]

    def check_ranks(self) -> None:
        """Ranks are named for every engine or for none; no two instances share one, and rank 0 is the orchestrator."""
        named = {name: self._groups(name, _RANKS) for name in self.configs}
        if not any(named.values()):
            return
        taken: dict[int, str] = {}
        for name, instances in named.items():
            if not instances:
                raise refusal(self.path, name, _RANKS, "absent", "ranks, as every engine of this repository has them")
            if len(instances) != self._instances(name):
                raise refusal(self.path, name, _RANKS, f"of {len(instances)} instances", f"{self._instances(name)}")
            for rank in (rank for members in instances for rank in members):
                if rank == 0 or rank in taken:
                    owner = "the orchestrator's" if rank == 0 else f"one of {taken[rank]}"
                    raise refusal(self.path, name, _RANKS, f"{rank}, {owner}", "ranks of its own")
                taken[rank] = name

    def check_gpus(self) -> None:
        """GPUs are named for each instance, and an instance has as many as it has ranks."""
        for name in self.configs:
            gpus, ranks = self._groups(name, _GPUS), self._groups(name, _RANKS)
            if gpus and len(gpus) != self._instances(name):
                raise refusal(self.path, name, _GPUS, f"of {len(gpus)} instances", f"{self._instances(name)}")
            for ours, members in zip(gpus, ranks, strict=False):
                if len(ours) != len(members):
                    raise refusal(self.path, name, _GPUS, f"{len(ours)} GPUs", f"{len(members)}, one a rank")

    def check_memory(self) -> None:
        """Each of two engines on a GPU says its share; the backend's default of 0.9 for both does not fit."""
        named = {name: self._groups(name, _GPUS) for name in self.configs}
        for gpu in {gpu for instances in named.values() for members in instances for gpu in members} or {0}:
            # An engine that names no GPU uses those that are visible: any of them.
            here = {
                name: sum(gpu in members for members in instances) if instances else self._instances(name)
                for name, instances in named.items()
            }
            self._check_shares(here)

    def _check_shares(self, here: Mapping[str, int]) -> None:
        """`here`: for each model, how many of its instances run on one GPU."""
        if sum(here.values()) <= 1:
            return
        shares = [self._share(name) for name, count in here.items() for _ in range(count)]
        if sum(shares) >= 1:
            last = [name for name, count in here.items() if count][-1]
            found = " + ".join(f"{share:g}" for share in shares)
            of = "with the target's" if len(here) > 1 and here[last] < len(shares) else "for the instances of one GPU"
            raise refusal(self.path, last, _FRACTION, f"{found} {of}", "a sum below 1")

    def _share(self, name: str) -> float:
        text = self._parameter(name, _FRACTION)
        if text is None:
            raise refusal(self.path, name, _FRACTION, "absent", "a share: two engines use the GPU")
        return float(text)

    def _instances(self, name: str) -> int:
        return sum(group.count for group in self.configs[name].instance_group)

    def _groups(self, name: str, key: str) -> Groups:
        return groups(self._parameter(name, key))

    def _parameter(self, name: str, key: str) -> str | None:
        parameters = self.configs[name].parameters
        return parameters[key].string_value if key in parameters else None
