"""Expert-parallel checkpoints, which ModelOpt does not export: made from two that it does.

With tp_size ranks in moe_ep_size groups, rank r holds the experts of group r % moe_ep_size, cut into moe_tp_size parts
of which it holds part r // moe_ep_size. That is a slice of a checkpoint exported for moe_tp_size ranks; everything else
on the rank is as in one exported for tp_size. Source: Mapping of TensorRT-LLM (moe_tp_rank, moe_ep_rank).
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from slipstream.quantize.sharding import ModelShape, Parallel
from slipstream.text.tokenizer import read_json

_EXPERTS = re.compile(r"\.mlp\.(fc|proj)\.")


def distribute_experts(out: Path, experts: Path, parallel: Parallel, shape: ModelShape) -> None:
    """Replace the experts of the ranks in `out` by those of `experts`, exported for moe_tp_size ranks; remove it."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    assert shape.experts is not None, "only a model with experts is distributed"
    per_rank = shape.experts // parallel.moe_ep_size
    for stage in range(parallel.pp_size):
        for tp_rank in range(parallel.tp_size):
            path = out / f"rank{stage * parallel.tp_size + tp_rank}.safetensors"
            source = experts / f"rank{stage * parallel.moe_tp_size + tp_rank // parallel.moe_ep_size}.safetensors"
            first = tp_rank % parallel.moe_ep_size * per_rank
            tensors = load_file(path)
            with safe_open(source, framework="pt") as file:
                for name in filter(_EXPERTS.search, tensors):
                    whole = file.get_tensor(name)
                    # An activation's scale is one for all experts.
                    is_per_expert = whole.shape[0] == shape.experts and not name.endswith("activation_scaling_factor")
                    tensors[name] = whole[first : first + per_rank].clone() if is_per_expert else whole
            save_file(tensors, path)
    shutil.rmtree(experts)
    _write_mapping(out / "config.json", parallel)


def _write_mapping(path: Path, parallel: Parallel) -> None:
    config = read_json(path)
    config["mapping"] |= {"moe_tp_size": parallel.moe_tp_size, "moe_ep_size": parallel.moe_ep_size}
    path.write_text(json.dumps(config), encoding="utf-8")
