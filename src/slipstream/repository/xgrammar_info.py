"""The file that guided decoding reads: a tokenizer's vocabulary, the tokenizer itself and the id that ends a text.

TensorRT-LLM 1.2.1's backend parses it as JSON when it loads the engine, and ends the load without it
(triton_backend/inflight_batcher_llm/src/model_instance_state.cc @0c8de69a1ca6); upstream's writer is
examples/generate_xgrammar_tokenizer_info.py (@7ed07f0691df). Two things differ here, on purpose:

- A token stands at its id. Upstream writes the tokens in the order of their ids: one unused id moves all that follow.
- The end is the id that requests are told, which is the first of generation_config.json where there is one. The backend
  lets a text that satisfies the grammar end with it only; with another id the engine would not stop there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from slipstream.errors import SlipstreamError
from slipstream.text.tokenizer import Tokenizer

# In a model repository, beside the models: Triton looks at directories only.
XGRAMMAR_INFO = "xgrammar_tokenizer_info.json"


def write_xgrammar_info(model_directory: Path, path: Path) -> None:
    """Write `path` from the tokenizer of a Hugging Face model directory.

    Raises SlipstreamError where the model has no tokenizer.json, or names no token that ends a text.
    """
    tokenizer = Tokenizer.load(model_directory)
    if not tokenizer.eos_ids:
        raise SlipstreamError(
            f"{model_directory}: no token ends a text (eos_token_id of generation_config.json, eos_token of"
            " tokenizer_config.json), guided decoding needs one",
            mend="add eos_token_id to generation_config.json, or leave guided_decoding_backend out",
        )
    # ASCII with escapes: its reader stops at bytes that are not UTF-8, and tokens can hold anything.
    path.write_text(json.dumps(xgrammar_info(tokenizer)), encoding="ascii")


def xgrammar_info(tokenizer: Tokenizer) -> Mapping[str, object]:
    """The object that `write_xgrammar_info` writes; an id that no token has gets an empty one."""
    vocabulary = [""] * tokenizer.vocab_size
    for token, index in tokenizer.fast.get_vocab(with_added_tokens=True).items():
        vocabulary[index] = token
    return {
        "encoded_vocab": vocabulary,
        "tokenizer_str": tokenizer.fast.to_str(),
        "stop_token_ids": [tokenizer.eos_ids[0]],
    }
