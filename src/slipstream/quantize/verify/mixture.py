"""A mixture of experts: each token goes through the experts that the router likes best, wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipstream.quantize.verify.linear import LinearFormat

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """The experts of one rank; the sum over the ranks of a stage is the layer's output."""

    router: LinearFormat
    fc: Sequence[LinearFormat]  # per expert: the up rows, then the gate rows
    proj: Sequence[LinearFormat]
    first_expert: int  # of the model, that is this rank's first
    chosen: int  # experts a token

    def __call__(self, activations: Tensor) -> Tensor:
        import torch

        tokens = activations.flatten(0, -2)
        shares, experts = self.router(tokens).softmax(-1).topk(self.chosen, -1)
        shares = shares / shares.sum(-1, keepdim=True)
        mixed = torch.zeros_like(tokens)
        for place, (fc, proj) in enumerate(zip(self.fc, self.proj, strict=True)):
            token, choice = torch.where(experts == self.first_expert + place)
            if len(token):
                up, gate = fc(tokens[token]).chunk(2, -1)
                output = proj(torch.nn.functional.silu(gate) * up)
                mixed.index_add_(0, token, output * shares[token, choice, None])
        return mixed.view_as(activations)
