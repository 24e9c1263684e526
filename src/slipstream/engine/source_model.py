"""What a TensorRT-LLM checkpoint does not carry, from the Hugging Face directory it was made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slipstream.errors import SlipstreamError
from slipstream.trtllm_checkpoint.config import active_sliding_window


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """Facts of a Hugging Face directory; empty where it does not say."""

    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    sliding_window_tokens: int | None = None
    vocab_size: int | None = None


def read_source_model(directory: Path) -> SourceModel:
    """Read config.json and generation_config.json; the latter wins, as in Hugging Face's generate."""
    config = _read_json(directory / "config.json")
    generation = {**config, **_read_json(directory / "generation_config.json")}
    eos = generation.get("eos_token_id")
    return SourceModel(
        eos_token_ids=tuple(eos) if isinstance(eos, list) else (eos,) if isinstance(eos, int) else (),
        bos_token_id=_whole(generation, "bos_token_id"),
        pad_token_id=_whole(generation, "pad_token_id"),
        sliding_window_tokens=active_sliding_window(config),
        vocab_size=_whole(config, "vocab_size"),
    )


def _whole(config: Mapping[str, object], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) else None


def _read_json(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SlipstreamError(f"{path}: cannot be read ({error})", mend="prepare the model again") from error
    if not isinstance(values, dict):
        raise SlipstreamError(f"{path}: holds no JSON object", mend="prepare the model again")
    return values
