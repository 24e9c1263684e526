"""Small tokenizers of the families that models use, trained on packaged text: same parts as the models' own.

Each is made of the normalizer, pre-tokenizer, model and decoder that the named models ship; the vocabulary is small.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

from slipstream.quantize.corpora import packaged_text
from slipstream.text.tokenizer import Tokenizer

SCRIPTS = (
    "The quick brown fox jumps over the lazy dog; it doesn't, I'm sure, they've , isn't it ?",
    "Съешь ещё этих мягких французских булок",
    "人人生而自由，在尊严和权利上一律平等。",
    "すべての人間は、生まれながらにして自由であり",
    "모든 인간은 태어날 때부터 자유로우며",
    "يولد جميع الناس أحرارًا متساوين",
    "सभी मनुष्यों को गौरव और अधिकारों",
    "มนุษย์ทั้งหลายเกิดมามีอิสระ",
    "👩‍👩‍👧‍👦 🇩🇪🇯🇵 👍🏽 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ❤️‍🔥",
    "def f(x):\n    return x ** 2  # 1234567890\n\t{'a': [1, 2.5e-3]}",
    "e\u0301 cafe\u0301 \u200b \ufeff \u00a0 naïve ½ ∑ ≠ \ufffd ▁ _ ##",
)
END, CALL = "<|end|>", "<tool_call>"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN = _WORDS.replace("{1,3}", "")
_O200K = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{Lo}\p{M}]+|" + _WORDS
_SIZE = 700


# What postprocessing in the ensemble, which has no state, cannot join: see backend/pieces_of_text.py.
NEED_STATE = ("BPE with a suffix, GPT and CLIP", "characters, replaced and stripped at the beginning")


def families() -> Mapping[str, Callable[[], Tokenizer]]:
    """Name → tokenizer, trained when it is asked for and kept."""
    return _FAMILIES


@cache
def _text() -> tuple[str, ...]:
    return (*packaged_text("news").calibration[:60_000].split("\n"), *SCRIPTS * 3)


def _bytes_family(split: str | None = None, *, prefix: bool = False, merges: bool = True, **more: Any) -> Tokenizer:
    """Byte-level BPE; `split` is the pattern of the words where it is not GPT-2's."""
    fast = FastTokenizer(models.BPE(ignore_merges=more.pop("ignore_merges", False)))
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=split is None)
    isolate = None if split is None else pre_tokenizers.Split(Regex(split), behavior="isolated")
    fast.pre_tokenizer = level if isolate is None else pre_tokenizers.Sequence([isolate, level])
    fast.normalizer = normalizers.NFC() if more.pop("nfc", False) else None
    fast.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = _SIZE if merges else len(alphabet)
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    fast.train_from_iterator(_text() if merges else [], trainer)
    return _finished(fast, **more)


def _pieces(
    *, normalize: bool, fallback: bool, decoder: Any, scheme: str = "first", unigram: bool = False
) -> Tokenizer:
    """SentencePiece's families: ▁ is a space; `fallback` adds a token a byte."""
    special = ["<unk>", *([f"<0x{byte:02X}>" for byte in range(256)] if fallback else [])]
    fast = FastTokenizer(models.Unigram() if unigram else models.BPE(unk_token="<unk>"))  # noqa: S106
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    settings: dict[str, Any] = {"vocab_size": _SIZE, "special_tokens": special, "show_progress": False}
    if unigram:
        trainer: Any = trainers.UnigramTrainer(unk_token="<unk>", **settings)  # noqa: S106
    else:
        trainer = trainers.BpeTrainer(limit_alphabet=120 if fallback else 1000, **settings)
    fast.train_from_iterator(_text(), trainer)
    whole = json.loads(fast.to_str())
    whole["model"]["byte_fallback"] = fallback
    whole["added_tokens"] = []
    fast = FastTokenizer.from_str(json.dumps(whole))
    if normalize:
        fast.pre_tokenizer = None
        prepend = [] if scheme == "never" else [normalizers.Prepend("▁")]
        fast.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
    fast.decoder = decoder
    return _finished(fast)


def _word_pieces(*, cleanup: bool) -> Tokenizer:
    fast = FastTokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    fast.normalizer = normalizers.BertNormalizer(lowercase=cleanup)
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece(prefix="##", cleanup=cleanup)
    fast.train_from_iterator(
        _text(), trainers.WordPieceTrainer(vocab_size=_SIZE, special_tokens=["[UNK]"], show_progress=False)
    )
    return _finished(fast)


def _with_suffix() -> Tokenizer:
    fast = FastTokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))  # noqa: S106
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=_SIZE, end_of_word_suffix="</w>", special_tokens=["<unk>"], show_progress=False
    )
    fast.train_from_iterator(_text(), trainer)
    return _finished(fast)


def _characters(decoder: Any, space: str) -> Tokenizer:
    """A token a character."""
    alphabet = sorted({character for text in _text() for character in text.replace(" ", space)})
    vocab = {character: index for index, character in enumerate(["<unk>", *alphabet])}
    fast = FastTokenizer(models.WordLevel(vocab, unk_token="<unk>"))  # noqa: S106
    fast.normalizer = normalizers.Replace(" ", space)
    fast.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    fast.decoder = decoder
    return _finished(fast)


def _finished(fast: FastTokenizer, *, spaces: bool = False) -> Tokenizer:
    """Add a special token, a plain one, and one with characters that byte-level vocabularies write otherwise."""
    fast.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    runs = [AddedToken(" " * count, normalized=True) for count in range(2, 9)] if spaces else []
    fast.add_tokens([AddedToken(CALL, special=False), AddedToken("「役」 ¤", special=False), *runs])
    end = fast.token_to_id(END)
    return Tokenizer(fast, bos_id=None, eos_ids=(end,), pad_id=end)


def _sequence(*steps: Any) -> Any:
    return decoders.Sequence(list(steps))


def _spelled(*more: Any) -> Any:
    """Llama 2's decoder."""
    return _sequence(decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *more)


_FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "byte-level BPE, GPT-2": cache(_bytes_family),
    "byte-level BPE, Llama 3": cache(lambda: _bytes_family(_WORDS, ignore_merges=True)),
    "byte-level BPE, Qwen": cache(lambda: _bytes_family(_QWEN, nfc=True)),
    "byte-level BPE, GPT-NeoX": cache(lambda: _bytes_family(spaces=True, nfc=True)),
    "byte-level BPE with a prefix space, RoBERTa": cache(lambda: _bytes_family(prefix=True)),
    "tiktoken, o200k": cache(lambda: _bytes_family(_O200K, ignore_merges=True)),
    "bytes, ByT5": cache(lambda: _bytes_family(merges=False)),
    "SentencePiece BPE, Llama 2": cache(
        lambda: _pieces(normalize=True, fallback=True, decoder=_spelled(decoders.Strip(" ", 1, 0)))
    ),
    "SentencePiece BPE not legacy, Mistral": cache(
        lambda: _pieces(normalize=False, fallback=True, decoder=_spelled(decoders.Strip(" ", 1, 0)))
    ),
    "SentencePiece BPE without a dummy prefix, Gemma": cache(
        lambda: _pieces(normalize=True, fallback=True, scheme="never", decoder=_spelled())
    ),
    "SentencePiece unigram with bytes": cache(
        lambda: _pieces(normalize=False, fallback=True, unigram=True, decoder=_spelled(decoders.Strip(" ", 1, 0)))
    ),
    "SentencePiece unigram, T5": cache(
        lambda: _pieces(
            normalize=False, fallback=False, unigram=True, scheme="always", decoder=decoders.Metaspace("▁", "always")
        )
    ),
    "Metaspace without a prefix, XLNet": cache(
        lambda: _pieces(
            normalize=False, fallback=False, unigram=True, scheme="never", decoder=decoders.Metaspace("▁", "never")
        )
    ),
    "WordPiece with cleanup, BERT": cache(lambda: _word_pieces(cleanup=True)),
    "WordPiece, cased": cache(lambda: _word_pieces(cleanup=False)),
    "BPE with a suffix, GPT and CLIP": cache(_with_suffix),
    "characters": cache(lambda: _characters(decoders.Fuse(), " ")),
    # Not at the end: there `tokenizers` 0.22 panics on a text that is empty.
    "characters, replaced and stripped at the beginning": cache(
        lambda: _characters(_sequence(decoders.Replace("_", " "), decoders.Fuse(), decoders.Strip(" ", 2, 0)), "_")
    ),
}
