"""A model's tokenizer, read from its Hugging Face directory without transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from slipstream.errors import SlipstreamError
from slipstream.text.token_bytes import TokenBytes

_LONG_TEXT = 8192  # characters


class Tokenizer:
    """Text to token ids and back, with the ids that begin, end and pad a sequence."""

    def __init__(
        self,
        fast: FastTokenizer,
        *,
        bos_id: int | None,
        eos_ids: tuple[int, ...],
        pad_id: int | None,
    ) -> None:
        self.fast = fast
        self.bos_id = bos_id
        self.eos_ids = eos_ids  # generation ends at any of them; the first is the one Triton is told
        self.pad_id = pad_id

    @classmethod
    def load(cls, directory: Path | str) -> Tokenizer:
        """Read `directory`: tokenizer.json, and the special ids of generation_config.json and tokenizer_config.json."""
        directory = Path(directory)
        fast = _read_fast(directory / "tokenizer.json")
        # A tokenizer.json may carry the padding and truncation of its training run: they must not cut a prompt.
        fast.no_padding()
        fast.no_truncation()
        settings = read_json(directory / "tokenizer_config.json", required=False)
        generation = read_json(directory / "generation_config.json", required=False)
        eos_ids = _ids("eos", generation, settings, fast)
        pad_ids = _ids("pad", generation, settings, fast) or eos_ids
        bos_ids = _ids("bos", generation, settings, fast)
        return cls(
            fast,
            bos_id=bos_ids[0] if bos_ids else None,
            eos_ids=eos_ids,
            pad_id=pad_ids[0] if pad_ids else None,
        )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; `add_special_tokens` lets the model's own post-processor add a BOS where it has one."""
        if len(text) < _LONG_TEXT:
            encoded = self.fast.encode(text, add_special_tokens=add_special_tokens)
        else:  # a batch lets other threads run meanwhile
            encoded = self.fast.encode_batch([text], add_special_tokens=add_special_tokens)[0]
        ids: list[int] = encoded.ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `ids`; ids outside the vocabulary (a padded embedding has some) give no text.

        It is what `tokenizers` gives, except that a byte token which belongs to no character spoils no others: see
        `ByteRun`.
        """
        if self.token_bytes.has_fallback:
            skipped = self.special_ids if skip_special_tokens else frozenset()
            return self.join(self.token_bytes.names_to_decode(token for token in ids if token not in skipped))
        text: str = self.fast.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def join(self, names: list[str]) -> str:
        """Text of tokens by their names."""
        text: str = " ".join(names) if self.fast.decoder is None else self.fast.decoder.decode(names)
        return text

    @cached_property
    def token_bytes(self) -> TokenBytes:
        """What single tokens add to a text."""
        return TokenBytes(self.fast)

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids from 0 to the highest one in use, added tokens included."""
        return 1 + max(self.fast.get_vocab(with_added_tokens=True).values(), default=-1)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that `decode` leaves out by default."""
        return frozenset(index for index, token in self.fast.get_added_tokens_decoder().items() if token.special)


def read_json(path: Path, *, required: bool = True) -> dict[str, Any]:
    """The JSON object in `path`; an empty one where a file that is not required is missing."""
    if not required and not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SlipstreamError(
            f"{path}: cannot be read ({error.strerror})", mend="give a complete Hugging Face model directory"
        ) from error
    except ValueError as error:
        raise SlipstreamError(f"{path}: is not JSON ({error})", mend="fetch or prepare the model again") from error
    if not isinstance(value, dict):
        raise SlipstreamError(f"{path}: holds no JSON object", mend="fetch or prepare the model again")
    return value


def special_token(settings: dict[str, Any], name: str) -> str | None:
    """The text of `bos_token`, `eos_token`, … in a tokenizer_config.json, which writes it as text or as an object."""
    token = settings.get(name)
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _read_fast(path: Path) -> FastTokenizer:
    if not path.is_file():
        raise SlipstreamError(
            f"{path}: there is no tokenizer",
            mend="use a model that ships tokenizer.json; transformers' AutoTokenizer.save_pretrained writes one",
        )
    try:
        return FastTokenizer.from_file(str(path))
    except Exception as error:  # the Rust binding raises bare Exception for every malformed file
        raise SlipstreamError(
            f"{path}: is not a tokenizer ({error})", mend="fetch or prepare the model again"
        ) from error


def _ids(kind: str, generation: dict[str, Any], settings: dict[str, Any], fast: FastTokenizer) -> tuple[int, ...]:
    """Ids of `kind`: what generation_config.json says, else the id of tokenizer_config.json's token."""
    value = generation.get(f"{kind}_token_id")
    if isinstance(value, int):
        return (value,)
    if isinstance(value, list) and value:
        return tuple(int(item) for item in value)
    token = special_token(settings, f"{kind}_token")
    found = None if token is None else fast.token_to_id(token)
    return () if found is None else (found,)
