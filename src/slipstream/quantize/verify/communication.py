"""What ranks tell each other: sums, maxima and gathers within a stage, activations from one stage to the next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.trtllm_checkpoint.config import Parallelism
from slipstream.trtllm_checkpoint.ranks import Rank

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


class Communication:
    """One rank's connections; without neighbours nothing is connected and everything returns what it was given."""

    def __init__(self, parallelism: Parallelism, rank: Rank, rendezvous: Path) -> None:
        self._rank = rank
        self._tp_size = parallelism.tp_size
        self._group: ProcessGroup | None = None
        if parallelism.world_size > 1:
            self._connect(parallelism, rendezvous)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks of this stage, on all of them."""
        return self._reduced(values, "SUM")

    def maximum(self, values: Tensor) -> Tensor:
        """The largest of the ranks of this stage, on all of them."""
        return self._reduced(values, "MAX")

    def gather(self, values: Tensor) -> Tensor:
        """`values` [..., n] of this stage's ranks one after the other, [..., tp_size x n]."""
        import torch
        from torch import distributed

        if self._tp_size == 1:
            return values
        here = values.cpu().contiguous()
        gathered = [torch.empty_like(here) for _ in range(self._tp_size)]
        distributed.all_gather(gathered, here, group=self._group)
        return torch.cat(gathered, -1).to(values.device)

    def send_to_next_stage(self, values: Tensor) -> None:
        from torch import distributed

        distributed.send(values.cpu().contiguous(), self._rank.index + self._tp_size)

    def receive_from_previous_stage(self, like: Tensor) -> Tensor:
        """Activations of the shape and on the device of `like`."""
        import torch
        from torch import distributed

        received = torch.empty(like.shape)
        distributed.recv(received, self._rank.index - self._tp_size)
        return received.to(like.device)

    def _connect(self, parallelism: Parallelism, rendezvous: Path) -> None:
        from torch import distributed

        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        distributed.init_process_group(
            "gloo", init_method=rendezvous.as_uri(), rank=self._rank.index, world_size=parallelism.world_size
        )
        for stage in range(parallelism.pp_size):  # every process has to make every group
            group = distributed.new_group(range(stage * self._tp_size, (stage + 1) * self._tp_size))
            if stage == self._rank.pp_rank:
                self._group = group

    def _reduced(self, values: Tensor, operation: str) -> Tensor:
        from torch import distributed

        if self._tp_size == 1:
            return values
        total = values.cpu().clone()  # gloo reduces in CPU memory
        distributed.all_reduce(total, getattr(distributed.ReduceOp, operation), group=self._group)
        return total.to(values.device)
