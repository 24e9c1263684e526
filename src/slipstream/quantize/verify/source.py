"""The Hugging Face model's weights, read from its safetensors files one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from slipstream.errors import SlipstreamError
from slipstream.trtllm_checkpoint.shard import DTYPES, Float32Array, Shard, as_float32

EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"
_STORED_AS = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


class SourceModel:
    """A model directory; weights come as float32, rounded to the checkpoint's 16-bit type as when it was made."""

    def __init__(self, directory: Path, dtype: str) -> None:
        self.directory = directory
        self.config = _read_config(directory)
        self._dtype = DTYPES[_STORED_AS.get(dtype, "F32")]
        self._shards: dict[str, Shard] = {}
        for path in sorted(directory.glob("*.safetensors")):
            shard = Shard(path)
            self._shards |= dict.fromkeys(shard.entries, shard)
        if not self._shards:
            raise SlipstreamError(
                f"{directory}: holds no *.safetensors", mend="give the Hugging Face model's directory"
            )

    def __contains__(self, name: str) -> bool:
        return name in self._shards

    def tensor(self, name: str) -> Float32Array:
        """`name`, or the embedding for an lm_head that is tied to it."""
        shard = self._shards.get(self.resolved(name))
        if shard is None:
            raise SlipstreamError(
                f"{self.directory}: tensor {name} is missing", mend="give the model that the checkpoint was made from"
            )
        return as_float32(shard.tensor(self.resolved(name)).astype(self._dtype))

    def unrounded(self, name: str) -> Float32Array:
        """As it is stored."""
        name = self.resolved(name)
        return as_float32(self._shards[name].tensor(name))

    def resolved(self, name: str) -> str:
        return EMBEDDING if name == LM_HEAD and name not in self._shards else name

    def layer_tensors(self, suffix: str) -> Iterator[str]:
        """Every layer's tensor whose name ends in `suffix`."""
        return (name for name in sorted(self._shards) if name.startswith("model.layers.") and name.endswith(suffix))


def _read_config(directory: Path) -> Mapping[str, object]:
    path = directory / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SlipstreamError(
            f"{path}: cannot be read ({error})", mend="give the Hugging Face model's directory"
        ) from error
    if not isinstance(values, dict):
        raise SlipstreamError(f"{path}: holds no JSON object", mend="give the Hugging Face model's directory")
    return values
