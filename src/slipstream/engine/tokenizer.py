"""The tokenizer as OpenVINO models, which the pipeline needs for stop strings and structured output.

Token ids go in and out without it. A request with stop strings, a grammar or a JSON schema on an engine that lacks it
raises in the step that admits it and leaves the pipeline unusable: the backend must refuse such a request itself.
"""

from __future__ import annotations

from pathlib import Path

from slipstream.errors import SlipstreamError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


def has_tokenizer(directory: Path) -> bool:
    """Whether a Hugging Face directory holds a tokenizer at all."""
    return any((directory / name).is_file() for name in TOKENIZER_FILES)


def convert_tokenizer(directory: Path, out: Path) -> None:
    """Write openvino_tokenizer.xml and openvino_detokenizer.xml of the tokenizer in `directory` into `out`."""
    import openvino
    from openvino_tokenizers import convert_tokenizer as convert
    from transformers import AutoTokenizer

    try:
        tokenizer, detokenizer = convert(AutoTokenizer.from_pretrained(directory), with_detokenizer=True)
        openvino.save_model(tokenizer, out / "openvino_tokenizer.xml")
        openvino.save_model(detokenizer, out / "openvino_detokenizer.xml")
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, NotImplementedError) as error:
        raise SlipstreamError(
            f"{directory}: the tokenizer cannot be converted for OpenVINO ({error})",
            mend="check tokenizer.json and tokenizer_config.json; byte-level BPE is known to work",
        ) from error
