"""INT8 rows by ModelOpt's rule, on rows where rules differ."""

from __future__ import annotations

import numpy as np

from slipstream.engine.quantize_rows import quantize_rows


def test_the_largest_weight_of_a_row_is_127() -> None:
    rows = quantize_rows(np.array([[0.5, -1.0, 0.25], [3.0, 1.0, -2.0]], np.float32))
    np.testing.assert_array_equal(rows.values, [[64, -127, 32], [127, 42, -85]])
    np.testing.assert_array_equal(rows.row_scales, np.array([1, 3], np.float32) / np.float32(127))


def test_halves_round_to_even() -> None:
    np.testing.assert_array_equal(
        quantize_rows(np.array([[127, 0.5, 1.5, -2.5]], np.float32)).values, [[127, 0, 2, -2]]
    )


def test_a_row_of_zeros_stays_zero_with_scale_one() -> None:
    rows = quantize_rows(np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(rows.values, np.zeros((2, 3)))
    np.testing.assert_array_equal(rows.row_scales, [1, 1])


def test_error_is_at_most_half_a_step() -> None:
    weight = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    rows = quantize_rows(weight)
    error = np.abs(rows.values * rows.row_scales[:, None] - weight)
    assert (error <= rows.row_scales[:, None] * 0.5001).all()
