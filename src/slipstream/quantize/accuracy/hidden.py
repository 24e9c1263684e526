"""A model's last hidden states, from which its logits can be had again without the model.

lm_head is quantized by no recipe. So the unquantized model's logits need not be kept (128k numbers a token): the input
of lm_head is enough, and gives the same logits when they are compared, some tokens at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Hidden = NDArray[np.float32]  # [tokens, hidden size]


def last_hidden(model: PreTrainedModel, batch: Sequence[Sequence[int]]) -> Hidden:
    """The input of lm_head for each token of `batch`, samples of one length, one after another."""
    import torch

    with torch.inference_mode():
        return lm_head_input(model, torch.tensor(batch)).flatten(0, 1).numpy()


def lm_head_input(model: PreTrainedModel, ids: Tensor, **masking: Tensor) -> Tensor:
    """The input of lm_head for `ids` [batch, tokens]: [batch, tokens, hidden size] in float32 on the CPU.

    `masking` is `attention_mask` and `position_ids` where the usual causal ones are not meant.
    """
    body: Any = model.get_decoder()
    device = model.device
    given = {name: value.to(device) for name, value in masking.items()}
    hidden: Tensor = body(input_ids=ids.to(device), use_cache=False, **given).last_hidden_state
    return hidden.float().cpu()


def log_probabilities(model: PreTrainedModel, hidden: Hidden) -> Tensor:
    """Of every next token, by the model's lm_head: [tokens, vocabulary], on the CPU."""
    import torch

    head: Any = model.get_output_embeddings()
    logits: Tensor = head(torch.from_numpy(hidden).to(head.weight.device, head.weight.dtype))
    return logits.float().log_softmax(-1).cpu()
