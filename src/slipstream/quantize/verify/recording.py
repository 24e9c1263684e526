"""What ModelOpt's fake-quantized model computes on a few tokens, kept beside its checkpoint for the executor.

The inputs of every layer are kept with the logits: a deep model makes a large difference of one activation that falls
on the other side of a rounding edge, so logits alone cannot tell a fault from the last bit of a sum. A layer that
starts from the recorded input can be told.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.quantize.hf_model import quiet
from slipstream.quantize.verify.logits import INPUT_AMAX, K_CACHE, V_CACHE
from slipstream.trtllm_checkpoint.shard import Array

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAMPLES, TOKENS, SEED = 2, 24, 0
RECORDED = {"input_quantizer": "", "k_bmm_quantizer": K_CACHE, "v_bmm_quantizer": V_CACHE}


def write_reference(model: PreTrainedModel, recipe: str, path: Path) -> None:
    """Write `input_ids`, `logits`, `hidden_states` and the `input_amax` of linear layers and KV caches, in float32.

    input_ids [samples, tokens]; logits [samples, tokens, vocabulary]; hidden_states [layers + 1, samples, tokens,
    hidden]: what goes into each layer, and last what goes into lm_head.

    The same model gives the same bytes: the safetensors library would write its metadata in an order of its own.
    """
    import torch

    numbers = random.Random(SEED)  # noqa: S311 - reproducible, not secret
    ids = [[numbers.randrange(model.config.vocab_size) for _ in range(TOKENS)] for _ in range(SAMPLES)]
    input_ids = torch.tensor(ids, device=model.device)
    with torch.inference_mode(), quiet():
        computed = model(input_ids, use_cache=False, output_hidden_states=True)
    tensors = {
        "input_ids": input_ids.cpu().numpy(),
        "logits": computed.logits.float().cpu().numpy(),
        "hidden_states": torch.stack([states.float().cpu() for states in computed.hidden_states]).numpy(),
    }
    for name, module in model.named_modules():
        recorded = RECORDED.get(name.rpartition(".")[2])
        if recorded is not None and module.is_enabled and module.amax is not None:
            amax = module.amax.detach().float().cpu().reshape(-1).numpy()
            tensors[f"{name.rpartition('.')[0]}{recorded}{INPUT_AMAX}"] = amax
    _write(path, tensors, {"modelopt": version("nvidia-modelopt"), "recipe": recipe})


def _write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """A safetensors file, its tensors in the order given."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    data = b""
    for name, values in tensors.items():
        dtype = "I64" if values.dtype.kind == "i" else "F32"
        offsets = [len(data), len(data) + values.nbytes]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": offsets}
        data += values.tobytes()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
