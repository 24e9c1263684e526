"""A Hugging Face checkpoint directory: checked, and taken over without copying its weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipstream.errors import SlipstreamError
from slipstream.progress import Reporter
from slipstream.quantize.quantized_sources import refuse_quantized
from slipstream.quantize.safetensors_files import INDEX_NAME, check_weights
from slipstream.text.tokenizer import Tokenizer, read_json

TRAINED_NAME = "modelopt_state.pth"  # beside the weights of a model trained with ModelOpt's quantizers in it
NEEDED = ("config.json", "tokenizer.json")
TOKENIZER_FILES = ("tokenizer.json", "chat_template.jinja", "special_tokens_map.json", "tokenizer_config.json")
TAKEN = ("config.json", *TOKENIZER_FILES, INDEX_NAME, "generation_config.json", TRAINED_NAME)


def take_local_model(source: Path, out: Path, report: Reporter) -> None:
    """Check the checkpoint in `source`, copy its small files into `out` and link its weights there."""
    check_model_directory(source)
    report(f"taking {source}")
    for name in TAKEN:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    for path in check_weights(source).paths:
        _link(path, out / path.name)


def check_model_directory(source: Path) -> None:
    """Refuse a directory without a readable config, tokenizer or weights, with what is missing."""
    if not source.is_dir():
        raise SlipstreamError(
            f"model.source: there is no directory {source}", mend="give the path of a Hugging Face checkpoint"
        )
    for name in NEEDED:
        if not (source / name).is_file():
            raise SlipstreamError(f"{source}: has no {name}", mend=_mend_for_missing(name))
    config = read_json(source / "config.json")
    refuse_quantized(source / "config.json", config)
    architecture(config, source / "config.json")
    Tokenizer.load(source)
    check_weights(source)


def architecture(config: Mapping[str, Any], path: Path) -> str:
    """The one architecture that the config.json `path` names."""
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise SlipstreamError(
            f"{path}: architectures is {names!r}, one name is expected",
            mend="use a checkpoint saved by transformers' save_pretrained",
        )
    return names[0]


def _mend_for_missing(name: str) -> str:
    if name == "tokenizer.json":
        return "write one with transformers: AutoTokenizer.from_pretrained(DIR, use_fast=True).save_pretrained(DIR)"
    return "give a complete Hugging Face checkpoint directory"


def _link(weights: Path, link: Path) -> None:
    """Hard link where the disk is the same, so that the source may be moved; a symbolic link otherwise."""
    target = weights.resolve()
    try:
        os.link(target, link)
    except OSError:  # another file system, or one without hard links
        link.symlink_to(target)
