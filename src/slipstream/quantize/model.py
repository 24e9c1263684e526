"""The model stage: whatever `model.source` names becomes one checked Hugging Face checkpoint directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slipstream.errors import SlipstreamError
from slipstream.progress import Reporter
from slipstream.quantize.bundled import PREFIX, prepare_bundled
from slipstream.quantize.disk import writing_to
from slipstream.quantize.gguf_checkpoint import write_hf_checkpoint
from slipstream.quantize.hub import check_hub_id, fetch_from_hub
from slipstream.quantize.local_model import architecture, check_model_directory, take_local_model
from slipstream.quantize.safetensors_files import check_weights
from slipstream.text.tokenizer import read_json


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """What was prepared."""

    name: str
    architecture: str  # Hugging Face's class name, as LlamaForCausalLM
    parameters: int  # stored ones: a tied lm_head is not counted twice
    layers: int
    weight_bytes: int


def prepare_model(
    source: str, dtype: Literal["float16", "bfloat16", "float32"], out: Path, report: Reporter
) -> ModelReport:
    """Put the checkpoint that `source` names into the empty directory `out`.

    `source` is `bundled:NAME`, a path (it begins with / ./ ../ ~ or exists) of a directory or a .gguf file, or a hub id
    `org/name`. The weights of a directory or of the hub are linked as they are; those of a GGUF are written in `dtype`.
    """
    with writing_to(out):
        if source.startswith(PREFIX):
            prepare_bundled(source.removeprefix(PREFIX), dtype, out, report)
            check_model_directory(out)
        elif is_gguf(source):
            write_hf_checkpoint(gguf_file(source), dtype, out, report)
            check_model_directory(out)
        elif is_path(source):
            take_local_model(Path(source).expanduser(), out, report)
        else:
            check_hub_id(source)
            take_local_model(fetch_from_hub(source, report), out, report)
    return _report(_name(source), out)


def is_path(source: str) -> bool:
    """Whether `source` means a directory or a file on this machine."""
    return source.startswith(("/", "./", "../", "~")) or source in (".", "..") or Path(source).exists()


def is_gguf(source: str) -> bool:
    """Whether `source` means a GGUF file on this machine."""
    return is_path(source) and source.lower().endswith(".gguf") and not Path(source).expanduser().is_dir()


def gguf_file(source: str) -> Path:
    """The file that `source` names."""
    path = Path(source).expanduser()
    if not path.is_file():
        raise SlipstreamError(f"model.source: there is no file {path}", mend="give the path of a GGUF file")
    return path


def _name(source: str) -> str:
    if is_path(source):
        path = Path(source).expanduser().resolve()
        return path.stem if is_gguf(source) else path.name
    return source.removeprefix(PREFIX).rsplit("/", 1)[-1]


def _report(name: str, directory: Path) -> ModelReport:
    config = read_json(directory / "config.json")
    layers = config.get("num_hidden_layers")
    if not isinstance(layers, int):
        raise SlipstreamError(
            f"{directory / 'config.json'}: has no num_hidden_layers",
            mend="use a text model; models with a vision or audio part are not supported",
        )
    weights = check_weights(directory)
    return ModelReport(
        name=name,
        architecture=architecture(config, directory / "config.json"),
        parameters=weights.parameters,
        layers=layers,
        weight_bytes=weights.total_bytes,
    )
