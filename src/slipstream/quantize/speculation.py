"""What a draft checkpoint would gain its target: both are run on held-out text, as they stand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slipstream.errors import SlipstreamError
from slipstream.progress import Reporter, silent
from slipstream.quantize.acceptance import Acceptance, measure_acceptance
from slipstream.quantize.draft import TokenizerPair, check_padded_vocabularies, compare_tokenizers
from slipstream.quantize.verify.execute import execute
from slipstream.text.tokenizer import Tokenizer
from slipstream.trtllm_checkpoint.config import read_architecture

TEXTS = 8
PROMPT_TOKENS = 32
MIN_NEW_TOKENS = 16  # of each text: every one is a run of the whole target, which keeps no KV cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """What only target and draft together show."""

    tokenizers: TokenizerPair
    vocabularies: str | None  # what the padding of the vocabularies rules out
    acceptance: Acceptance


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One model of a pair."""

    checkpoint: Path
    model: Path


def measure_speculation(target: Member, draft: Member, text: str, max_draft_len: int, report: Reporter) -> Speculation:
    """Decode greedily after stretches of `text` with the target, and ask the draft for every token of it."""
    tokenizers = compare_tokenizers(target.model, draft.model)
    vocabularies = check_padded_vocabularies(target.checkpoint, draft.checkpoint, target.model)
    prompts = _prompts(Tokenizer.load(target.model), text)
    ids = prompts
    count = new_tokens(max_draft_len)
    for done in range(count):
        report("greedy text of the target", done / count)
        ids = np.concatenate([ids, _choices(target.checkpoint, ids)[:, -1:]], axis=1)
    report("the draft's choices")
    proposed = _choices(draft.checkpoint, ids[:, :-1])[:, PROMPT_TOKENS - 1 :]
    agrees = (proposed == ids[:, PROMPT_TOKENS:]).tolist()
    return Speculation(
        tokenizers=tokenizers, vocabularies=vocabularies, acceptance=measure_acceptance(agrees, max_draft_len)
    )


def new_tokens(max_draft_len: int) -> int:
    """Tokens decoded of each text: whole steps of the longest kind, so that full agreement is seen as such."""
    longest_step = max_draft_len + 1  # the target adds a token of its own
    return -(-MIN_NEW_TOKENS // longest_step) * longest_step


def speculation_text(speculation: Speculation) -> str:
    """Some lines for people."""
    found = speculation.acceptance
    gain = (
        f"speculation {found.agreement:.1%} of {found.positions} greedy tokens are proposed by the draft"
        f" (95 %: {found.agreement_low:.1%} to {found.agreement_high:.1%});"
        f" {found.tokens_per_step:.2f} tokens a step with max_draft_len {found.max_draft_len}"
    )
    lines = [gain, f"tokenizers  {speculation.tokenizers.shared_tokens} tokens are the same"]
    for index, (target, draft) in speculation.tokenizers.renamed_special_tokens.items():
        lines.append(f"            special token {index} is {target} to the target and {draft} to the draft")
    return "\n".join([*lines, *([f"vocabulary  {speculation.vocabularies}"] if speculation.vocabularies else [])])


def _prompts(tokenizer: Tokenizer, text: str) -> npt.NDArray[np.int64]:
    """Stretches at even distances, [TEXTS, PROMPT_TOKENS]."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    step = (len(ids) - PROMPT_TOKENS) // (TEXTS - 1)
    if step < PROMPT_TOKENS:
        raise SlipstreamError(
            f"held-out text: has {len(ids)} tokens, {TEXTS} x {PROMPT_TOKENS} are needed",
            mend="name a longer text as evaluation of the target's recipe",
        )
    return np.array([ids[start * step : start * step + PROMPT_TOKENS] for start in range(TEXTS)], dtype=np.int64)


def _choices(checkpoint: Path, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The most likely next token after every token of `ids` [texts, tokens]."""
    architecture = read_architecture(checkpoint / "config.json")
    chosen: npt.NDArray[np.int64] = execute(checkpoint, architecture, ids, silent).logits.argmax(-1)
    return chosen
