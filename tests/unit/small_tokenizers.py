"""Two small tokenizers of the families that models use, trained in the test, and text to try them on."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

from slipstream.text.tokenizer import Tokenizer

END = "<|end|>"
SCRIPTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Съешь ещё этих мягких французских булок",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "人人生而自由，在尊严和权利上一律平等。",
    "すべての人間は、生まれながらにして自由であり",
    "모든 인간은 태어날 때부터 자유로우며",
    "يولد جميع الناس أحرارًا متساوين",
    "सभी मनुष्यों को गौरव और अधिकारों",
    "มนุษย์ทั้งหลายเกิดมามีอิสระ",
    "כל בני האדם נולדו בני חורין",
    "👩‍👩‍👧‍👦 🇩🇪🇯🇵 👍🏽 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ❤️‍🔥",
    "def f(x):\n    return x ** 2  # 1234567890\n\t{'a': [1, 2.5e-3]}",
    "e\u0301 cafe\u0301 \u200b \ufeff \u00a0 naïve ½ ∑ ≠",
]


@cache
def byte_level() -> Tokenizer:
    """GPT-2's family: every byte is a token."""
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator(
        SCRIPTS[:4] * 20, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    return _finished(fast)


@cache
def byte_fallback() -> Tokenizer:
    """SentencePiece's family, as Llama 2: words begin with ▁, and what the vocabulary lacks is spelled in bytes."""
    words = FastTokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    words.train_from_iterator(
        SCRIPTS[:3] * 20, trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"], show_progress=False)
    )
    vocab = words.get_vocab()
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    fast = FastTokenizer(models.BPE(vocab, _merges(words), unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finished(fast)


def save_byte_level(directory: Path) -> None:
    """Write `byte_level` as the tokenizer of a model directory."""
    directory.mkdir(exist_ok=True)
    byte_level().fast.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))


def texts() -> st.SearchStrategy[str]:
    """Pieces of many scripts and arbitrary characters, joined."""
    return st.lists(st.sampled_from(SCRIPTS) | st.text(max_size=12), max_size=6).map("".join)


def cuts(ids: list[int], sizes: list[int]) -> list[list[int]]:
    """`ids` in pieces of `sizes`, the rest in one."""
    pieces, start = [], 0
    for size in sizes:
        pieces.append(ids[start : start + size])
        start += size
    return [*pieces, ids[start:]]


def _merges(words: FastTokenizer) -> list[tuple[str, str]]:
    return [tuple(merge) for merge in json.loads(words.to_str())["model"]["merges"]]


def _finished(fast: FastTokenizer) -> Tokenizer:
    fast.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    end = fast.token_to_id(END)
    return Tokenizer(fast, bos_id=None, eos_ids=(end,), pad_id=end)
