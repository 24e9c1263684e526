"""Random token streams through the detokenizer and through the ensemble's pieces: their text is the one-shot decode.

The one-shot decode is `tokenizers`' own; for byte fallback, where that spoils whole runs, it is written out by hand.
"""

from __future__ import annotations

import codecs
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from slipstream.backend.characters import Characters
from slipstream.backend.pieces_of_text import PieceDecoder
from slipstream.perf.provenance import provenance
from slipstream.perf.tokenizer_families import NEED_STATE, SCRIPTS
from slipstream.progress import Reporter
from slipstream.text.detokenizer import Detokenizer
from slipstream.text.tokenizer import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_ALL_PREFIXES_OF = 0.05  # of the streams: their text is compared after every token
_MOST_FAILURES = 10
codecs.register_error("slipstream-each-byte", lambda error: ("\ufffd", error.start + 1))  # type: ignore[attr-defined]


@dataclass
class Family:
    """One tokenizer, and what its streams came to."""

    name: str
    tokenizer: Tokenizer
    streams: int = 0
    tokens: int = 0
    pieces: int = 0
    as_tokenizers: int = 0  # streams whose text is `tokenizers`' own, all but runs with bad bytes
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._characters = Characters(self.tokenizer)
        self._decoders = [PieceDecoder(self.tokenizer, skip_special_tokens=skip) for skip in (False, True)]
        self._is_stripped = "Strip" in str(getattr(self.tokenizer.fast.decoder, "__getstate__", str)())

    def try_one(self, rng: random.Random) -> None:
        """One random stream, cut at random."""
        ids, skip = random_ids(self.tokenizer, rng), rng.random() < 0.5
        whole = self.one_shot(ids, skip=skip)
        ways = {
            "stream": self._streamed(ids, skip, rng),
            "decode": [self.tokenizer.decode(ids, skip_special_tokens=skip)],
        }
        if self.name not in NEED_STATE:
            known = [token for token in ids if token < self.tokenizer.vocab_size]  # the engine gives no others
            ways["ensemble"] = list(self._by_ensemble(known, skip, rng))
        if rng.random() < _ALL_PREFIXES_OF:
            self._try_prefixes(ids, skip)
        self.streams, self.tokens = self.streams + 1, self.tokens + len(ids)
        self.pieces += sum(len(pieces) for pieces in ways.values())
        self.as_tokenizers += whole == self.tokenizer.fast.decode(ids, skip_special_tokens=skip)
        for way, pieces in ways.items():
            if "".join(pieces) != whole:
                self._fail(f"{way}: {ids} skip={skip} gave {pieces}, not {whole!r}")

    def one_shot(self, ids: Sequence[int], *, skip: bool) -> str:
        """What the text must be."""
        if not self.tokenizer.token_bytes.has_fallback:
            text: str = self.tokenizer.fast.decode(list(ids), skip_special_tokens=skip)
            return text
        text, run = "", b""
        for token in ids:
            name = self.tokenizer.fast.id_to_token(token)
            if name is None or (skip and token in self.tokenizer.special_ids):
                continue
            byte = _BYTE.fullmatch(name)
            if byte is not None:
                run += bytes.fromhex(byte[1])
                continue
            text, run = text + _spelled(run) + name.replace("▁", " "), b""
        text += _spelled(run)
        return text.removeprefix(" ") if self._is_stripped else text

    def _streamed(self, ids: Sequence[int], skip: bool, rng: random.Random) -> list[str]:
        detokenizer = Detokenizer(self.tokenizer, skip_special_tokens=skip)
        return [*(detokenizer.push(part) for part in cuts(ids, rng)), detokenizer.finish()]

    def _by_ensemble(self, ids: Sequence[int], skip: bool, rng: random.Random) -> Iterator[str]:
        """Cut where the engine may cut, each piece decoded by itself."""
        piece: list[int] = []
        sent: list[int] = []
        for index, token in enumerate(ids, start=1):
            piece.append(token)
            if index == len(ids) or (rng.random() < 0.7 and self._characters.end_whole(piece)):
                begins_text = not (self._characters.any_text(sent) if skip else sent)
                yield self._decoders[skip].decode(piece, begins_text=begins_text)
                sent, piece = sent + piece, []

    def _try_prefixes(self, ids: Sequence[int], skip: bool) -> None:
        """Nothing is held longer than a character is open."""
        detokenizer, text = Detokenizer(self.tokenizer, skip_special_tokens=skip), ""
        for count, token in enumerate(ids, start=1):
            text += detokenizer.push([token])
            whole = self.one_shot(ids[:count], skip=skip)
            if text != whole and (not whole.startswith(text) or set(whole[len(text) :]) != {"\ufffd"}):
                self._fail(f"after {count} of {ids} skip={skip}: {text!r} is out of {whole!r}")

    def _fail(self, what: str) -> None:
        if len(self.failures) < _MOST_FAILURES:
            self.failures.append(what)


def random_ids(tokenizer: Tokenizer, rng: random.Random) -> list[int]:
    """Any ids, any bytes, or a text with some of its tokens lost, doubled or changed."""
    kind = rng.random()
    most = tokenizer.vocab_size + 2  # a padded embedding has ids beyond the vocabulary
    if kind < 0.3:
        return [rng.randrange(most) for _ in range(rng.randrange(30))]
    ids = tokenizer.encode("".join(_some_text(rng) for _ in range(rng.randrange(1, 4))))
    start = rng.randrange(max(len(ids) - 10, 1))
    ids = ids[start : start + rng.randrange(40)]
    for _ in range(0 if kind < 0.6 else rng.randrange(5)):
        where = rng.randrange(len(ids) + 1)
        others: tuple[list[int], ...] = ([], [rng.randrange(most)], ids[where : where + 1] * 2, list(tokenizer.eos_ids))
        ids[where : where + rng.randrange(2)] = rng.choice(others)
    return ids


def cuts(ids: Sequence[int], rng: random.Random) -> Iterator[Sequence[int]]:
    """`ids` in parts: of one each, of some each (or none), or all at once."""
    longest, start = rng.choice((1, 3, 8, 64)), 0
    while start < len(ids):
        size = 1 if longest == 1 else rng.randrange(longest)
        yield ids[start : start + size]
        start += size


def try_streams(families: Mapping[str, Tokenizer], streams: int, seed: int, report: Reporter) -> dict[str, object]:
    """`streams` random streams, shared out evenly: what they came to, with its provenance."""
    started = time.monotonic()
    rows = []
    for number, (name, tokenizer) in enumerate(families.items()):
        report(name, number / len(families))
        family, rng = Family(name, tokenizer), random.Random(f"{seed} {name}")  # noqa: S311 - no secret
        for _ in range(streams // len(families) + (number < streams % len(families))):
            family.try_one(rng)
        rows.append(_row(family))
    return {
        "provenance": provenance(),
        "tokenizers": version("tokenizers"),
        "streams": streams,
        "seed": seed,
        "seconds": round(time.monotonic() - started),
        "failed_streams": sum(len(row["failures"]) for row in rows),  # type: ignore[arg-type,misc]
        "families": rows,
    }


def _row(family: Family) -> dict[str, object]:
    return {
        "family": family.name,
        "streams": family.streams,
        "tokens": family.tokens,
        "pieces": family.pieces,
        "text_is_that_of_tokenizers": family.as_tokenizers,
        "failures": family.failures,
    }


def _some_text(rng: random.Random) -> str:
    text = rng.choice(SCRIPTS)
    start = rng.randrange(len(text))
    return text[start : start + rng.randrange(1, 30)] + rng.choice(("", " ", "  ", "\n"))


def _spelled(run: bytes) -> str:
    return run.decode("utf-8", "slipstream-each-byte")
