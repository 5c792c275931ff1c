"""The native kernels and the torch operations compute the same numbers, for every kind of entry."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainvitals.capture.backends import native
from trainvitals.capture.backends.members import Member
from trainvitals.capture.backends.native import (
    HUGE_PAGE_BYTES,
    Copies,
    NativeGroup,
    OutputKernel,
    Prepared,
    Table,
)
from trainvitals.capture.backends.plain import PlainGroup, distinct_rows
from trainvitals.capture.backends.plain_outputs import measure
from trainvitals.capture.backends.shapes import shape_of
from trainvitals.capture.liveness import Liveness, Mode
from trainvitals.capture.step import Step
from trainvitals.wire import STATISTICS, Stat, Stream

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
COLUMN = {stat: i for i, stat in enumerate(STATISTICS[Stream.GRADIENT])}


def parameter(tensor, gradient=None):
    made = nn.Parameter(tensor)
    made.grad = gradient
    return made


def measured(kind, parameters, *, change=None, unscale=1.0, distinct=False):
    """Return the step of one optimizer step in which each weight becomes `change(weight)`."""
    members = [
        Member(p, row, p.detach().clone() * 2 if p.dim() == 1 else None)
        for row, p in enumerate(parameters)
    ]
    group, step = kind(members), Step(len(parameters))
    group.gradients(step, "optimizer", unscale, distinct=distinct)
    group.weights(step, frozen=True, keep=True, distinct=distinct)
    with torch.no_grad():
        before = [p.clone() for p in parameters]
        for p in parameters:
            p.copy_(change(p) if change else p)
        group.updates(step)
        for p, old in zip(parameters, before, strict=True):
            p.copy_(old)
    return step


def total_of(step):
    return step.totals[id("optimizer")]


def gradient_row(tensor):
    step = measured(NativeGroup, [parameter(torch.zeros(tensor.shape).to(tensor.dtype), tensor)])
    return step.matrices[Stream.GRADIENT][0], total_of(step)


def test_this_environment_has_the_native_kernels():
    assert native.is_available()


def test_kernels_that_were_built_from_older_sources_are_not_used():
    assert native._load(lambda _: SimpleNamespace(tv_gradients=SimpleNamespace())) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 15, 1024, 1025, 5000])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_both_backends_agree(dtype, count, scale):
    generator = torch.Generator().manual_seed(count)
    weight, gradient = ((torch.randn(count, generator=generator) * scale).to(dtype) for _ in "ab")
    one = [parameter(weight, gradient)]
    steps = [measured(kind, one, change=lambda w: w * 1.5) for kind in (NativeGroup, PlainGroup)]
    for stream in (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE):
        a, b = (step.matrices[stream] for step in steps)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * scale, err_msg=stream)
    assert total_of(steps[0]) == pytest.approx(total_of(steps[1]), rel=1e-5)
    light = [Step(1), Step(1)]
    for kind, step in zip((NativeGroup, PlainGroup), light, strict=True):
        kind([Member(one[0], 0)]).norm(step, "optimizer")
    for step in light:
        assert total_of(step) == pytest.approx(total_of(steps[0]), rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_backends_agree_on_updates_of_weights_that_exceed_the_caches(dtype):
    """The kernel copies weights of more than 1 MiB past the caches; 613 entries end unaligned."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(n, generator=generator).to(dtype) for n in (700_000, 613, 1, 40_003)]
    parameters = [parameter(weight) for weight in weights]
    a, b = (
        measured(kind, parameters, change=lambda w: w * 1.25) for kind in (NativeGroup, PlainGroup)
    )
    for stream in (Stream.WEIGHT, Stream.UPDATE):
        np.testing.assert_allclose(a.matrices[stream], b.matrices[stream], rtol=1e-4, atol=1e-6)


@given(
    st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=40),
    st.integers(0, 60),
)
@settings(max_examples=80, deadline=None)
def test_both_backends_agree_on_odd_entries(entries, repeats):
    x = torch.tensor(entries * (repeats + 1), dtype=torch.float32)
    one = [parameter(torch.zeros_like(x), x)]
    a, b = (measured(kind, one).matrices[Stream.GRADIENT] for kind in (NativeGroup, PlainGroup))
    spread = float(np.nanmax(np.abs(np.where(np.isfinite(b[0, 2:4]), b[0, 2:4], 0))))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=max(spread * 1e-6, 1e-44))


def test_a_small_spread_far_from_zero_is_not_lost():
    x = 1e4 + 0.1 * torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    row, _ = gradient_row(x)
    assert row[COLUMN[Stat.STD]] == pytest.approx(float(x.double().std(correction=0)), rel=1e-4)
    assert row[COLUMN[Stat.MEAN]] == pytest.approx(float(x.double().mean()), rel=1e-7)


BLOCK = 2048  # of parameters.c: the mean of the blocks before is the shift of the next one


@pytest.mark.parametrize(
    ("means", "spread"),
    [
        ([1e4, -1e4, 0.0, 1e4], 1e-1),  # each block is far from those before
        ([1e3, 1e3, 1e3], 1e-2),
        ([1e6, 0.0, 0.0], 1e-6),  # small entries after large ones
        ([0.0, 5.0, 5.0], 0.0),  # constant blocks
    ],
)
def test_blocks_with_other_means_than_those_before_are_measured_as_exactly(means, spread):
    torch.manual_seed(0)
    parts = [mean + spread * torch.randn(BLOCK) for mean in means]
    entries = torch.cat([*parts, torch.full((7,), means[-1])])
    exact = entries.double()
    row, _ = gradient_row(entries)
    assert row[0] == pytest.approx(float(exact.mean()), rel=1e-6)
    assert row[1] == pytest.approx(float(exact.std(correction=0)), rel=1e-5)
    assert row[5] == pytest.approx(float(exact.norm()), rel=1e-6)
    # A block of its own, to which another mean was the shift, is not hidden by the others.
    alone, _ = gradient_row(torch.cat([parts[0], parts[-1]]))
    pair = torch.cat([parts[0], parts[-1]]).double()
    assert alone[1] == pytest.approx(float(pair.std(correction=0)), rel=1e-5)


def test_subnormal_and_huge_entries_keep_their_norm():
    for x in (torch.full((5000,), 1e-40), torch.full((5000,), 1e30)):
        row, total = gradient_row(x)
        norm = float(x.double().norm())
        assert row[COLUMN[Stat.L2]] == pytest.approx(norm, rel=1e-4)
        assert total.squares == pytest.approx(norm**2, rel=1e-4)


def test_nan_and_infinities_are_counted_and_left_out_of_the_moments():
    x = torch.ones(2000)
    x[[3, 1500]] = float("nan")
    x[7] = float("inf")
    row, total = gradient_row(x)
    assert row[COLUMN[Stat.NONFINITE]] == 3
    assert (row[0], row[1], row[2], row[3]) == (1, 0, 1, 1)
    assert total.nonfinite == 1
    assert np.isnan(total.squares)


def test_a_transposed_or_strided_gradient_is_measured_as_it_is():
    x = torch.randn(64, 96)
    for view in (x.t(), x[::3, ::2], x.view(4, 16, 12, 8).to(memory_format=torch.channels_last)):
        row, _ = gradient_row(view)
        assert row[COLUMN[Stat.MEAN]] == pytest.approx(float(view.double().mean()), abs=1e-6)
        assert row[COLUMN[Stat.L2]] == pytest.approx(float(view.double().norm()), rel=1e-5)


def test_half_precision_covers_subnormals_and_its_largest_number():
    x = torch.tensor([65504.0, -65504.0, 6e-8, 1e-5, 0.0], dtype=torch.float16)
    row, _ = gradient_row(x)
    assert (row[2], row[3]) == (-65504, 65504)
    assert row[COLUMN[Stat.ABS_MEAN]] == pytest.approx(float(x.double().abs().mean()), rel=1e-6)


@pytest.mark.parametrize("kind", [NativeGroup, PlainGroup])
def test_a_scaled_gradient_is_unscaled_but_not_its_counts(kind):
    x = torch.tensor([2.0, 0.0, float("inf"), -6.0])
    step = measured(kind, [parameter(torch.zeros(4), x)], unscale=0.5)
    row = step.matrices[Stream.GRADIENT][0]
    assert (row[COLUMN[Stat.MAX]], row[COLUMN[Stat.MIN]]) == (1, -3)
    assert (row[COLUMN[Stat.ZERO_SHARE]], row[COLUMN[Stat.NONFINITE]]) == (0.25, 1)


@pytest.mark.parametrize("kind", [NativeGroup, PlainGroup])
def test_updates_that_rounding_absorbs_are_counted(kind):
    weight = parameter(torch.ones(2048, dtype=torch.bfloat16), torch.ones(2048).bfloat16())
    small = torch.cat([torch.full((1536,), 1e-4), torch.full((512,), 0.5)]).bfloat16()
    row = measured(kind, [weight], change=lambda w: w + small).matrices[Stream.UPDATE][0]
    assert row[STATISTICS[Stream.UPDATE].index(Stat.UNCHANGED_SHARE)] == 0.75


@pytest.mark.parametrize("rows", [2, 7, 256, 300, 1000])
def test_both_backends_count_the_same_distinct_rows(rows):
    x = torch.randn(rows, 40, generator=torch.Generator().manual_seed(rows))
    x[1::2] = x[0]
    assert native.distinct_rows(x) == distinct_rows(x)
    assert native.distinct_rows(torch.zeros(4, 3)) == 0.25
    assert np.isnan(native.distinct_rows(torch.full((4, 3), float("nan"))))


def output_rows(tensor, module, mode, step=0, lives=None):
    lives = lives or (Liveness(), Liveness())
    shape = shape_of(tensor, module, step)
    plain = measure(tensor, shape, mode, lives[0]).numpy()
    row = np.empty(len(plain), np.float32)
    kernel = OutputKernel()
    idle = lives[1].native(shape.channels) if mode is Mode.RELU else None
    prepared = Prepared(shape, tensor.dtype, mode, idle)
    kernel.measure(tensor.data_ptr(), prepared, row.ctypes.data)
    return row, plain


OUTPUTS = {
    "scalar": (torch.tensor(3.0), nn.Linear(1, 1)),
    "vectors": (torch.randn(33, 17), nn.Linear(1, 17)),
    "one sample": (torch.randn(1, 70), nn.Linear(1, 70)),
    "many samples of one unit": (torch.randn(70_000, 1), nn.Linear(1, 1)),
    "tokens": (torch.randn(4, 50, 24), nn.Linear(1, 24)),
    "many tokens": (torch.randn(64, 128, 96), nn.Linear(1, 96)),
    "images": (torch.randn(5, 3, 9, 7), nn.Conv2d(1, 3, 1)),
    "large images": (torch.randn(80, 16, 33, 31), nn.Conv2d(1, 16, 1)),
    "channels last": (
        torch.randn(6, 16, 20, 20).to(memory_format=torch.channels_last),
        nn.Conv2d(1, 16, 1),
    ),
    "signals": (torch.randn(6, 8, 300), nn.Conv1d(1, 8, 1)),
    "far from zero": (1e4 + torch.randn(500, 30), nn.Linear(1, 30)),
    "constant": (torch.full((20, 12), 7.0), nn.Linear(1, 12)),
    "no samples": (torch.randn(0, 12), nn.Linear(1, 12)),
}


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", list(Mode))
def test_both_backends_agree_on_outputs(name, dtype, mode):
    tensor, module = OUTPUTS[name]
    if name == "far from zero" and dtype in (torch.float16, torch.bfloat16):
        pytest.skip("the spread is below the type's resolution")
    native_row, plain_row = output_rows(tensor.to(dtype), module, mode, step=3)
    # The excess kurtosis of normal values is near 0, where only the absolute error means something.
    rtol, atol = (1e-2, 1e-3) if name == "far from zero" else (1e-4, 1e-5)
    np.testing.assert_allclose(native_row, plain_row, rtol=rtol, atol=atol)


def test_samples_with_a_nonfinite_entry_are_counted_and_left_out():
    x = torch.randn(40, 24)
    x[3, 5], x[20, 0] = float("nan"), float("-inf")
    kept = torch.cat([x[:3], x[4:20], x[21:]])
    row, plain = output_rows(x, nn.Linear(1, 24), Mode.PLAIN)
    wanted, _ = output_rows(kept, nn.Linear(1, 24), Mode.PLAIN)
    wanted[4] = 2
    np.testing.assert_allclose(row, wanted, rtol=1e-5)
    np.testing.assert_allclose(plain, wanted, rtol=1e-4, atol=1e-6)
    everything = torch.full((4, 3), float("nan"))
    for row in output_rows(everything, nn.Linear(1, 3), Mode.RELU):
        assert row[4] == 12
        assert np.isnan(row[[0, 1, 2, 3, 8]]).all()


def test_both_backends_count_the_same_dead_units():
    lives = Liveness(), Liveness()
    generator = torch.Generator().manual_seed(0)
    for step in range(30):
        x = torch.randn(32, 6, 4, 4, generator=generator)
        x[:, :2] = -1.0
        if step == 5:
            x[:, 1] = 1.0
        rows = output_rows(x.relu(), nn.ReLU(), Mode.RELU, step, lives)
        np.testing.assert_allclose(rows[0][8:10], rows[1][8:10], rtol=1e-6)
    assert rows[0][9] == pytest.approx(2 / 6)


@pytest.mark.parametrize("entries", [1, 4096, 524_288, 700_000])
def test_copies_of_some_megabytes_fill_whole_large_pages(entries):
    table = Table([torch.zeros(entries), torch.zeros(3)], [0, 1])
    copies = Copies(table, None)
    page = HUGE_PAGE_BYTES if table.copy_bytes >= HUGE_PAGE_BYTES else 64
    offset = int(copies._all[0]) - copies.memory.ctypes.data
    assert copies._all[0] % page == 0
    assert len(copies.memory) - offset >= -(-table.copy_bytes // page) * page
    assert Copies(table, copies.memory).memory is copies.memory
