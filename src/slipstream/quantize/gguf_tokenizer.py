"""The tokenizer of a GGUF file, rebuilt: byte-level BPE with the pre-tokenizers that are known exactly."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from slipstream.errors import SlipstreamError
from slipstream.quantize.gguf_metadata import Metadata

CONTROL_TOKEN, USER_DEFINED_TOKEN = 3, 4  # gguf.TokenType
ORIGINAL = "give the model's original Hugging Face directory, whose tokenizer.json is exact"
# How a text is cut before BPE; llama.cpp's names. Digits go by three in Llama 3, one by one in Qwen 2.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {"llama-bpe": _WORDS % "{1,3}", "qwen2": _WORDS % ""}
KNOWN = ("smollm", "gpt-2", *_SPLITS)


def check_tokenizer(metadata: Metadata) -> None:
    """Refuse a tokenizer that would come out different from the model's own."""
    kind = metadata.text("tokenizer.ggml.model")
    if kind != "gpt2":
        raise SlipstreamError(
            f"{metadata.path}: its tokenizer is {kind!r} (SentencePiece), which a GGUF holds without its normalization"
            " rules; only byte-level BPE ('gpt2') is rebuilt",
            mend=ORIGINAL,
        )
    cut = metadata.optional("tokenizer.ggml.pre")
    if cut not in KNOWN:
        raise SlipstreamError(
            f"{metadata.path}: its pre-tokenizer is {cut!r}, known are {', '.join(KNOWN)}", mend=ORIGINAL
        )


def rebuild_tokenizer(metadata: Metadata) -> Tokenizer:
    """The tokenizer of a file that passed `check_tokenizer`."""
    tokens: list[str] = metadata.value("tokenizer.ggml.tokens")
    types: list[int] = metadata.value("tokenizer.ggml.token_type")
    merges = [_pair(merge) for merge in metadata.value("tokenizer.ggml.merges")]
    cut = metadata.text("tokenizer.ggml.pre")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=cut == "llama-bpe"))
    tokenizer.pre_tokenizer = _pre_tokenizer(cut)
    if cut == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    for kind, is_special in ((CONTROL_TOKEN, True), (USER_DEFINED_TOKEN, False)):
        added = [token for token, found in zip(tokens, types, strict=True) if found == kind]
        tokens_of_kind = [AddedToken(token, special=is_special, normalized=False) for token in added]
        tokenizer.add_special_tokens(tokens_of_kind) if is_special else tokenizer.add_tokens(tokens_of_kind)
    if _adds_bos(metadata):
        bos = metadata.integer("tokenizer.ggml.bos_token_id")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)]
        )
    return tokenizer


def tokenizer_config(metadata: Metadata) -> dict[str, Any]:
    """tokenizer_config.json: special tokens, as far as the file has them, and the chat template."""
    tokens = metadata.value("tokenizer.ggml.tokens")
    keys = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    ids = {name: metadata.optional(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    template = metadata.optional("tokenizer.chat_template")
    return {
        "add_prefix_space": False,
        **({} if template is None else {"chat_template": str(template)}),
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata.integer("llama.context_length"),
        "tokenizer_class": "GPT2Tokenizer" if metadata.text("tokenizer.ggml.pre") == "smollm" else _FAST,
        **{f"{name}_token": tokens[int(index)] for name, index in ids.items() if index is not None},
    }


_FAST = "PreTrainedTokenizerFast"


def _pre_tokenizer(cut: str) -> pre_tokenizers.PreTokenizer:
    if cut in _SPLITS:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLITS[cut]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if cut == "gpt-2":
        return words
    # SmolLM's: digits split one by one, no prefix space and no post-processor.
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])


def _adds_bos(metadata: Metadata) -> bool:
    """As the file says; Llama 3's does where it says nothing, as in llama.cpp."""
    said = metadata.optional("tokenizer.ggml.add_bos_token")
    return bool(said) if said is not None else metadata.text("tokenizer.ggml.pre") == "llama-bpe"


def _pair(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ")
    return left, right
