"""What tokens add to a text: bytes where the tokenizer spells in bytes, names where neighbours decide.

Three kinds of decoder are told apart. A byte-level one (GPT-2's family) joins the bytes of all tokens, so any cut
between characters is safe. One with byte fallback (SentencePiece's) spells what its vocabulary lacks with tokens of one
byte. Every other joins names, whose spaces depend on their neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import pre_tokenizers

BROKEN = "\ufffd"
_LONGEST_CHARACTER_BYTES = 4


class TokenBytes:
    """Knows the tokens of one tokenizer by their ids."""

    def __init__(self, fast: FastTokenizer) -> None:
        self._fast = fast
        steps = _steps(fast)
        self.is_byte_level = steps == ["ByteLevel"]
        self.has_fallback = "ByteFallback" in steps
        self._known: dict[int, bytes] = {}

    def name(self, token: int) -> str | None:
        """The token as the vocabulary writes it, none for an id outside of it (a padded embedding has some)."""
        name: str | None = self._fast.id_to_token(token)
        return name

    def spelled(self, token: int) -> bytes:
        """The bytes of a token that is spelled in bytes, empty for one that is whole text by itself, or none."""
        found = self._known.get(token)
        if found is None:
            name = self.name(token)
            found = self._known[token] = b"" if name is None else self._bytes_of(name)
        return found

    def ends_inside_character(self, ids: Sequence[int], *, silent: Collection[int] = ()) -> bool:
        """The bytes of `ids` end with a beginning of a character; ids that are `silent` or of no token do not count."""
        tail = b""
        for token in reversed(ids):
            if token in silent or self.name(token) is None:
                continue
            spelled = self.spelled(token)
            if not spelled:
                break
            tail = spelled + tail
            if len(tail) >= _LONGEST_CHARACTER_BYTES:
                break
        return _is_unfinished(tail[-_LONGEST_CHARACTER_BYTES + 1 :])

    def parts_of_characters(self, ids: Iterable[int]) -> frozenset[int]:
        """Those of `ids` that may end inside a character."""
        return frozenset(token for token in ids if not _is_text(self.spelled(token)[-1:]))

    def names_to_decode(self, ids: Iterable[int]) -> list[str]:
        """Names for `decoders.Decoder.decode`; a byte that is part of no character has become U+FFFD."""
        run = ByteRun()
        names: list[str] = []
        for token in ids:
            name = self.name(token)
            if name is not None:
                names += run.push(name, self.spelled(token))
        return names + run.finish()

    def _bytes_of(self, name: str) -> bytes:
        if self.is_byte_level:
            try:
                return bytes(_BYTE_OF_CHARACTER[character] for character in name)
            except KeyError:  # an added token, written as it is
                return name.encode()
        if self.has_fallback and len(name.encode()) == 6 and name.startswith("<0x") and name.endswith(">"):
            try:
                return bytes([int(name[3:5], 16)])
            except ValueError:
                return b""
        return b""


class ByteRun:
    """Lets the names of byte tokens through when their bytes are a whole character, and U+FFFD for a byte of none.

    `tokenizers` spoils a whole run of bytes when one of them is bad; SentencePiece itself spoils that byte only, and
    so does this. What came out is therefore never taken back.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._bytes = b""

    @property
    def is_holding(self) -> bool:
        return bool(self._bytes)

    def push(self, name: str, spelled: bytes) -> list[str]:
        """The names that are settled now."""
        if not spelled:
            return [*self.finish(), name]
        self._names.append(name)
        self._bytes += spelled
        settled: list[str] = []
        while self._bytes and not _is_unfinished(self._bytes):
            settled += self._take()
        return settled

    def finish(self) -> list[str]:
        """The rest: bytes of a character that did not become whole."""
        broken = [BROKEN] * len(self._bytes)
        self._names, self._bytes = [], b""
        return broken

    def _take(self) -> list[str]:
        for length in range(1, len(self._bytes) + 1):
            if _is_text(self._bytes[:length]):
                names = self._names[:length]
                break
        else:
            length, names = 1, [BROKEN]
        self._names, self._bytes = self._names[length:], self._bytes[length:]
        return names


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_unfinished(data: bytes) -> bool:
    """More bytes could make the end of `data` a character."""
    for start in range(max(0, len(data) - _LONGEST_CHARACTER_BYTES + 1), len(data)):
        try:
            data[start:].decode()
        except UnicodeDecodeError as error:
            if error.start == 0 and error.reason == "unexpected end of data":
                return True
    return False


def _steps(fast: FastTokenizer) -> list[str]:
    """The types of the decoder's steps; none where there is no decoder."""
    if fast.decoder is None:
        return []
    decoder = json.loads(fast.decoder.__getstate__())
    return [step["type"] for step in decoder.get("decoders", [decoder])]


def _characters_of_bytes() -> dict[str, int]:
    """GPT-2's table, by what it does: visible characters stand for themselves, the others follow behind U+0100."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    visible = {character: ord(character) for character in alphabet if ord(character) < 256}
    hidden = sorted(set(range(256)) - set(visible.values()))
    return visible | {chr(256 + index): byte for index, byte in enumerate(hidden)}


_BYTE_OF_CHARACTER = _characters_of_bytes()
