"""Percentiles of |x|: right to a few percent, the same from the kernel and from torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trainvitals.capture.backends import native
from trainvitals.capture.backends.members import Member
from trainvitals.capture.backends.native import NativeGroup
from trainvitals.capture.backends.plain import PlainGroup, magnitudes
from trainvitals.capture.step import Step
from trainvitals.wire import STATISTICS, Stream
from trainvitals.wire.vocabulary import MAGNITUDES

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels are not built")
SHARES = np.array([0.05, 0.5, 0.95])


def from_kernel(tensors):
    """Return the percentiles of each tensor, shape (tensors, 3), measured as weights."""
    step = Step(len(tensors))
    group = NativeGroup([Member(tensor, row) for row, tensor in enumerate(tensors)])
    group.weights(step, frozen=True, keep=False, distinct=False)
    at = STATISTICS[Stream.WEIGHT].index(MAGNITUDES[0])
    return step.matrix(Stream.WEIGHT)[:, at : at + 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0])
def test_percentiles_are_right_to_a_few_percent(dtype, scale):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(4, 2048, generator=generator) * scale).to(dtype)
    expected = np.quantile(x.double().abs()[x != 0].numpy(), SHARES)
    tolerance = 0.04 if dtype != torch.float16 or scale == 1.0 else 0.15  # few bits below 6e-5
    np.testing.assert_allclose(from_kernel([x])[0], expected, rtol=tolerance)


def test_a_large_tensor_is_read_in_four_blocks():
    x = torch.zeros(100 * 2048)
    for block in (0, 25, 50, 75):
        x[block * 2048 : (block + 1) * 2048] = 2.0
    x[x == 0] = 7.0
    assert from_kernel([x])[0] == pytest.approx([2.0] * 3, rel=0.07)
    assert magnitudes(x) == pytest.approx(from_kernel([x])[0])


def test_zeros_and_non_finite_entries_do_not_count():
    odd = torch.tensor([0.0, -0.0, np.nan, np.inf, -np.inf, 3.0, -3.0])
    assert from_kernel([odd])[0] == pytest.approx([3.0] * 3, rel=0.07)
    nothing = [torch.zeros(5), torch.empty(0), torch.full((3,), np.nan)]
    assert np.isnan(from_kernel(nothing)).all()
    assert np.isnan([magnitudes(x) for x in nothing]).all()


@settings(deadline=None)
@given(
    st.lists(hnp.arrays(np.float32, st.integers(0, 5000), elements=st.floats(width=32)), min_size=1)
)
def test_the_kernel_and_torch_agree_bit_for_bit(arrays):
    tensors = [torch.from_numpy(array) for array in arrays]
    expected = np.stack([magnitudes(x) for x in tensors])
    np.testing.assert_array_equal(from_kernel(tensors), expected)


@pytest.mark.parametrize("kind", [NativeGroup, PlainGroup])
@pytest.mark.parametrize("unscale", [1.0, 1 / 1024])
def test_they_are_of_the_weights_and_of_the_unscaled_gradients(kind, unscale):
    generator = torch.Generator().manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(64, 32, generator=generator))
    weight.grad = torch.randn(64, 32, generator=generator) / unscale
    group, step = kind([Member(weight, 0, None)]), Step(1)
    group.gradients(step, "optimizer", unscale, distinct=False)
    group.weights(step, frozen=True, keep=False, distinct=False)
    for stream, tensor, factor in (
        (Stream.WEIGHT, weight.detach(), 1.0),
        (Stream.GRADIENT, weight.grad, unscale),
    ):
        row = step.matrices[stream][0]
        at = STATISTICS[stream].index(MAGNITUDES[0])
        expected = np.quantile((tensor * factor).abs().double().numpy(), SHARES)
        np.testing.assert_allclose(row[at : at + 3], expected, rtol=0.05)
