"""The native kernel and the torch path give the same numbers, for every kind of entry."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainvitals.capture import kernel

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture
def without_native(monkeypatch):
    def both(call):
        native = call()
        with monkeypatch.context() as patch:
            patch.setattr(kernel, "_native", None)
            return native, call()

    return both


def test_this_environment_has_the_native_kernel():
    assert kernel.has_native()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 15, 1024, 1025, 5000])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_both_paths_agree(dtype, count, scale, without_native):
    x = (torch.randn(count, generator=torch.Generator().manual_seed(count)) * scale).to(dtype)
    native, plain = without_native(lambda: kernel.statistics([x]))
    np.testing.assert_allclose(native, plain, rtol=2e-5, atol=1e-6 * scale)
    native, plain = without_native(lambda: kernel.squares([x]))
    np.testing.assert_allclose(native, plain, rtol=1e-5)
    native, plain = without_native(lambda: kernel.differences([x], [x * 2]))
    np.testing.assert_allclose(native, plain, rtol=1e-4, atol=1e-6 * scale)


@given(
    st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=40),
    st.integers(0, 60),
)
@settings(max_examples=200, deadline=None)
def test_both_paths_agree_on_odd_entries(entries, repeats):
    x = torch.tensor(entries * (repeats + 1), dtype=torch.float32)
    native = kernel.statistics([x])
    keep, kernel._native = kernel._native, None
    try:
        plain = kernel.statistics([x])
    finally:
        kernel._native = keep
    spread = float(np.nanmax(np.abs(np.where(np.isfinite(plain[0, 2:4]), plain[0, 2:4], 0))))
    np.testing.assert_allclose(native, plain, rtol=1e-4, atol=max(spread * 1e-6, 1e-44))


def test_a_small_spread_far_from_zero_is_not_lost():
    x = 1e4 + 0.1 * torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    [row] = kernel.statistics([x])
    assert row[1] == pytest.approx(float(x.double().std(correction=0)), rel=1e-4)
    assert row[0] == pytest.approx(float(x.double().mean()), rel=1e-7)


def test_subnormal_and_huge_entries_keep_their_norm():
    tiny, huge = torch.full((5000,), 1e-40), torch.full((5000,), 1e30)
    rows = kernel.statistics([tiny, huge])
    assert rows[0, 5] == pytest.approx(float(tiny.double().norm()), rel=1e-4)
    assert rows[1, 5] == pytest.approx(1e30 * 5000**0.5, rel=1e-5)
    squares = kernel.squares([tiny, huge])
    assert np.isfinite(squares).all()
    assert squares[0] > 0


def test_nan_and_infinities_are_counted_and_left_out_of_the_moments():
    x = torch.ones(2000)
    x[[3, 1500]] = float("nan")
    x[7] = float("inf")
    [row] = kernel.statistics([x])
    assert row[7] == 3
    assert (row[0], row[1], row[2], row[3]) == (1, 0, 1, 1)
    assert not np.isfinite(kernel.squares([x])).any()


def test_a_transposed_or_strided_view_is_measured_as_it_is():
    x = torch.randn(64, 96)
    for view in (x.t(), x[::3, ::2], x.view(4, 16, 12, 8).to(memory_format=torch.channels_last)):
        [row] = kernel.statistics([view])
        assert row[0] == pytest.approx(float(view.double().mean()), abs=1e-6)
        assert row[5] == pytest.approx(float(view.double().norm()), rel=1e-5)


def test_half_precision_covers_subnormals_and_its_largest_number():
    x = torch.tensor([65504.0, -65504.0, 6e-8, 1e-5, 0.0], dtype=torch.float16)
    [row] = kernel.statistics([x])
    assert (row[2], row[3]) == (-65504, 65504)
    assert row[4] == pytest.approx(float(x.double().abs().mean()), rel=1e-6)
