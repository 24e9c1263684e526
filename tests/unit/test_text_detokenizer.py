"""Incremental detokenization gives the text of all ids, whole characters only, however the ids arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.text.detokenizer import Detokenizer
from slipstream.text.tokenizer import Tokenizer
from tests.unit.small_tokenizers import END, SCRIPTS, byte_fallback, byte_level, cuts, texts

FAMILIES = pytest.mark.parametrize("family", [byte_level, byte_fallback], ids=["byte level", "byte fallback"])
SIZES = st.lists(st.integers(0, 7), max_size=40)
BROKEN = "\ufffd"


def stream(tokenizer: Tokenizer, pieces: list[list[int]], *, skip_special_tokens: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
    return [*(detokenizer.push(piece) for piece in pieces), detokenizer.finish()]


@FAMILIES
@given(text=texts(), sizes=SIZES)
def test_pieces_of_a_text_join_to_its_decoding(family, text: str, sizes: list[int]) -> None:
    tokenizer = family()
    ids = tokenizer.encode(text)
    assert "".join(stream(tokenizer, cuts(ids, sizes))) == tokenizer.decode(ids)


@given(data=st.data(), sizes=SIZES, skip=st.booleans())
def test_pieces_of_any_byte_level_ids_join_to_their_decoding(data: st.DataObject, sizes: list[int], skip: bool) -> None:
    tokenizer = byte_level()
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=60))
    joined = "".join(stream(tokenizer, cuts(ids, sizes), skip_special_tokens=skip))
    assert joined == tokenizer.decode(ids, skip_special_tokens=skip)


@given(data=st.data(), sizes=SIZES)
def test_pieces_of_any_byte_fallback_ids_keep_every_whole_character(data: st.DataObject, sizes: list[int]) -> None:
    tokenizer = byte_fallback()
    some_bytes = [tokenizer.fast.token_to_id(f"<0x{byte:02X}>") for byte in (*"a中🇩".encode(), 0xFF)]
    any_id = st.integers(0, tokenizer.vocab_size - 1)
    ids = data.draw(st.lists(any_id | st.sampled_from(some_bytes), max_size=60))
    assert "".join(stream(tokenizer, cuts(ids, sizes))) == tokenizer.decode(ids) == by_hand(tokenizer, ids)


def by_hand(tokenizer: Tokenizer, ids: list[int]) -> str:
    """A byte that is part of no character is U+FFFD, whatever the bytes beside it, as in SentencePiece."""
    text, run = "", b""
    for token in ids:
        if token in tokenizer.special_ids:
            continue
        name = tokenizer.fast.id_to_token(token)
        if name.startswith("<0x"):
            run += bytes([int(name[3:5], 16)])
        else:
            text, run = text + characters(run) + name.replace("▁", " "), b""
    return (text + characters(run)).removeprefix(" ")


def characters(run: bytes) -> str:
    if not run:
        return ""
    for length in range(1, 5):
        try:
            return run[:length].decode() + characters(run[length:])
        except UnicodeDecodeError:
            continue
    return BROKEN + characters(run[1:])


@FAMILIES
@pytest.mark.parametrize("text", SCRIPTS)
def test_no_broken_character_comes_out_token_by_token(family, text: str) -> None:
    tokenizer = family()
    pieces = stream(tokenizer, [[token] for token in tokenizer.encode(text)])
    assert not any(BROKEN in piece for piece in pieces)
    assert "".join(pieces) == text


@FAMILIES
def test_each_piece_ends_where_the_text_so_far_is_whole(family) -> None:
    tokenizer = family()
    ids = tokenizer.encode("a 🇩🇪 b")
    detokenizer = Detokenizer(tokenizer)
    text = ""
    for count, token in enumerate(ids, start=1):
        text += detokenizer.push([token])
        whole = tokenizer.decode(ids[:count])
        assert detokenizer.is_holding or text == whole
        assert detokenizer.is_holding or not whole.endswith(BROKEN)
    assert not detokenizer.is_holding


@FAMILIES
def test_an_unfinished_character_comes_out_at_the_end_only(family) -> None:
    tokenizer = family()
    ids = tokenizer.encode("so 🦜")[:-1]
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(ids) == "so "
    assert detokenizer.is_holding
    assert set(detokenizer.finish()) == {BROKEN}
    assert not detokenizer.is_holding
    assert detokenizer.finish() == ""


def test_characters_already_out_stay_when_a_bad_byte_follows_in_their_run() -> None:
    tokenizer = byte_fallback()
    ids = [tokenizer.fast.token_to_id(f"<0x{byte:02X}>") for byte in "中".encode() + b"\xff"]
    ids += tokenizer.encode("fox dog")
    assert "".join(stream(tokenizer, [[token] for token in ids])) == "中" + BROKEN + " fox dog"
    assert tokenizer.decode(ids) == "中" + BROKEN + " fox dog"


def test_a_special_token_is_left_out_unless_asked_for() -> None:
    tokenizer = byte_level()
    ids = [*tokenizer.encode("fox"), *tokenizer.eos_ids, *tokenizer.encode(" dog")]
    assert "".join(stream(tokenizer, [ids])) == "fox dog"
    assert "".join(stream(tokenizer, [ids], skip_special_tokens=False)) == f"fox{END} dog"


def test_bad_bytes_are_let_out_at_once_and_text_goes_on_after_them() -> None:
    tokenizer = byte_level()
    bad = [tokenizer.fast.token_to_id("¢")]  # the byte 0xA2, which only continues a character
    pieces = stream(tokenizer, [bad * 640, tokenizer.encode(" fox")])
    assert pieces[0] == BROKEN * 640
    assert "".join(pieces[1:]) == " fox"


def test_any_number_of_spaces_comes_out_whole() -> None:
    tokenizer = byte_fallback()
    space = tokenizer.fast.token_to_id("▁")
    ids = [space] * 200 + tokenizer.encode("fox")
    assert "".join(stream(tokenizer, [[token] for token in ids])) == tokenizer.decode(ids) == " " * 200 + "fox"
