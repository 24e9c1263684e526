"""Nibbles and FP4 codes are unpacked as ModelOpt packs them."""

from __future__ import annotations

import numpy as np

from slipstream.trtllm_checkpoint.packing import FP4_TABLE, scaled_by_group, unpack_fp4, unpack_int4


def test_the_low_nibble_of_an_int4_byte_is_the_even_row() -> None:
    packed = np.array([[0x21, 0xF8], [0x7F, 0x00]], np.uint8).view(np.int8)
    assert unpack_int4(packed).tolist() == [[1, -8], [2, -1], [-1, 0], [7, 0]]


def test_the_low_nibble_of_an_fp4_byte_is_the_even_column() -> None:
    packed = np.array([[0x17, 0xA2]], np.uint8)
    assert unpack_fp4(packed).tolist() == [[6.0, 0.5, 1.0, -1.0]]


def test_fp4_has_eight_values_and_their_negatives() -> None:
    assert FP4_TABLE.tolist()[:8] == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert FP4_TABLE.tolist()[8:] == [-0.0, -0.5, -1, -1.5, -2, -3, -4, -6]


def test_each_group_of_columns_has_its_scale() -> None:
    scaled = scaled_by_group(np.ones((2, 4), np.int8), np.array([[1, 2], [3, 4]], np.float32))
    assert scaled.tolist() == [[1, 1, 2, 2], [3, 3, 4, 4]]
