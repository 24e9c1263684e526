"""A draft model and its target: whether the one can propose tokens for the other.

Speculation exchanges token ids, so an id must mean the same text to both. Vocabulary sizes do not show that: embeddings
are padded (to a multiple of tp_size, of 64 by AWQ), and two models of one size may number their tokens differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slipstream.errors import SlipstreamError
from slipstream.text.tokenizer import Tokenizer, read_json


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerPair:
    """What two tokenizers have in common."""

    shared_tokens: int
    renamed_special_tokens: Mapping[int, tuple[str, str]]  # id → the target's and the draft's name for it


def compare_tokenizers(target: Path, draft: Path) -> TokenizerPair:
    """Compare the tokenizers of two model directories id by id.

    Raises SlipstreamError where an id of the draft means another text to the target, or none. Special tokens may have
    other names: models of one family use the reserved ones differently, and a wrong proposal is only rejected.
    """
    target_tokens, draft_tokens = _tokens(target), _tokens(draft)
    special = Tokenizer.load(target).special_ids | Tokenizer.load(draft).special_ids
    different = {
        index: (target_tokens.get(index, "nothing"), token)
        for index, token in draft_tokens.items()
        if target_tokens.get(index) != token
    }
    wrong = {index: names for index, names in different.items() if index not in special}
    if wrong:
        index, (theirs, ours) = min(wrong.items())
        raise SlipstreamError(
            f"engine.draft.model: {len(wrong)} of the draft's {len(draft_tokens)} token ids mean another text to the"
            f" target, the first is {index}: {ours!r} in {draft}, {theirs!r} in {target}",
            mend="choose a draft model of the target's own family, with the same tokenizer",
        )
    return TokenizerPair(
        shared_tokens=len(draft_tokens) - len(different),
        renamed_special_tokens={index: names for index, names in different.items() if index in special},
    )


def check_padded_vocabularies(target_checkpoint: Path, draft_checkpoint: Path, target_model: Path) -> str | None:
    """What the padded vocabularies of two checkpoints rule out, in words; None where they are equal.

    Raises SlipstreamError where a checkpoint has no row for a token that the tokenizer knows.
    """
    needed = Tokenizer.load(target_model).vocab_size
    sizes = {path: _vocab_size(path) for path in (target_checkpoint, draft_checkpoint)}
    for path, size in sizes.items():
        if size < needed:
            raise SlipstreamError(
                f"{path}: vocab_size is {size}, the tokenizer has {needed} tokens",
                mend="quantize a model whose embedding covers its tokenizer",
            )
    if sizes[target_checkpoint] == sizes[draft_checkpoint]:
        return None
    return (
        f"the padded vocabularies differ ({sizes[target_checkpoint]} of the target, {sizes[draft_checkpoint]} of the"
        " draft): tokens can be compared, the draft's logits cannot (use_draft_logits stays false)"
    )


def _tokens(directory: Path) -> dict[int, str]:
    vocabulary = Tokenizer.load(directory).fast.get_vocab(with_added_tokens=True)
    return {index: token for token, index in vocabulary.items()}


def _vocab_size(checkpoint: Path) -> int:
    size = read_json(checkpoint / "config.json").get("vocab_size")
    if not isinstance(size, int):
        raise SlipstreamError(f"{checkpoint / 'config.json'}: vocab_size is {size!r}", mend="quantize the model again")
    return size
