"""The Triton kernels compute the numbers of the C kernels.

Not collected by itself: test_cuda_backend.py runs this file in a process in which Triton
interprets its kernels on the CPU, on tensors in host memory.
"""

import os

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from trainvitals.capture.backends.cuda import CudaGroup
from trainvitals.capture.backends.device_tables import CHUNK, Table
from trainvitals.capture.backends.members import Member
from trainvitals.capture.backends.native import NativeGroup
from trainvitals.capture.step import Step
from trainvitals.wire import STATISTICS, Stat, Stream
from trainvitals.wire.vocabulary import MAGNITUDES

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
COUNTS = [0, 1, 15, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]
COLUMN = {stat: i for i, stat in enumerate(STATISTICS[Stream.GRADIENT])}
OWNER = "optimizer"


def parameter(tensor, gradient=None, *, trained=True):
    made = nn.Parameter(tensor, requires_grad=trained)
    made.grad = gradient
    return made


def members_of(parameters):
    return [
        Member(p, row, p.detach().clone() * 2 if p.dim() == 1 else None)
        for row, p in enumerate(parameters)
    ]


def gradients_of(kind, parameters, *, unscale=1.0):
    """Return the step in which the gradients are measured and nothing else."""
    step = Step(len(parameters))
    kind(members_of(parameters)).gradients(step, OWNER, unscale, distinct=False)
    return step


def measured(kind, parameters, *, change=None, frozen=True):
    """Return the step of one optimizer step in which each weight becomes `change(weight)`."""
    group, step = kind(members_of(parameters)), Step(len(parameters))
    group.gradients(step, OWNER, distinct=False)
    group.weights(step, frozen=frozen, keep=True, distinct=False)
    with torch.no_grad():
        before = [p.clone() for p in parameters]
        for p in parameters:
            p.copy_(change(p) if change else p)
        group.updates(step)
        for p, old in zip(parameters, before, strict=True):
            p.copy_(old)
    return step


def both(parameters, **arguments):
    return [measured(kind, parameters, **arguments) for kind in (CudaGroup, NativeGroup)]


def measured_on_devices(step, stream):
    """Return a stream's matrix without the percentiles, which are measured in host memory only."""
    magnitudes = [i for i, stat in enumerate(STATISTICS[stream]) if stat in MAGNITUDES]
    return np.delete(step.matrices[stream], magnitudes, axis=1)


def total_of(step):
    return step.totals[id(OWNER)]


def light(parameters, unscale=1.0):
    step = Step(len(parameters))
    CudaGroup(members_of(parameters)).norm(step, OWNER, unscale)
    return total_of(step)


def gradient_row(tensor):
    step = gradients_of(CudaGroup, [parameter(torch.zeros(tensor.shape).to(tensor.dtype), tensor)])
    return step.matrices[Stream.GRADIENT][0], total_of(step)


def random(count, dtype, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, generator=generator) * scale).to(dtype)


def test_this_process_interprets_the_kernels():
    assert os.environ["TRITON_INTERPRET"] == "1"


@pytest.mark.parametrize(
    "scale", [1.0, *(pytest.param(scale, marks=pytest.mark.slow) for scale in (1e-3, 1e3))]
)
def test_a_group_of_all_types_and_sizes_agrees_with_the_native_kernels(scale):
    mixed = [
        parameter(random(count, dtype, scale, i), random(count, dtype, scale, 99 + i))
        for i, (count, dtype) in enumerate((c, d) for c in COUNTS for d in DTYPES)
    ]
    a, b = both(mixed, change=lambda w: w * 1.5)
    for stream in (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE):
        np.testing.assert_allclose(
            measured_on_devices(a, stream),
            measured_on_devices(b, stream),
            rtol=1e-4,
            atol=1e-6 * scale,
            err_msg=stream,
        )
    assert total_of(a) == pytest.approx(total_of(b), rel=1e-5)
    assert light(mixed) == pytest.approx(total_of(b), rel=1e-5)


@given(
    st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=40),
    st.integers(0, 3),
)
@example([0.0] * 10 + [3.4028234663852886e38], 0)
@settings(max_examples=60, deadline=None)
def test_odd_entries_give_the_numbers_of_the_native_kernels(entries, repeats):
    x = torch.tensor(entries * (repeats + 1), dtype=torch.float32)
    one = [parameter(torch.zeros_like(x), x)]
    a, b = (gradients_of(kind, one) for kind in (CudaGroup, NativeGroup))
    row, wanted = (measured_on_devices(step, Stream.GRADIENT) for step in (a, b))
    spread = float(np.nanmax(np.abs(np.where(np.isfinite(wanted[0, 2:4]), wanted[0, 2:4], 0))))
    np.testing.assert_allclose(row, wanted, rtol=1e-4, atol=max(spread * 1e-6, 1e-44))
    assert total_of(a) == pytest.approx(total_of(b), rel=1e-5, nan_ok=True)


def test_a_small_spread_far_from_zero_is_not_lost():
    x = 1e4 + 0.1 * random(100_000, torch.float32, 1.0, 0)
    row, _ = gradient_row(x)
    assert row[COLUMN[Stat.STD]] == pytest.approx(float(x.double().std(correction=0)), rel=1e-4)
    assert row[COLUMN[Stat.MEAN]] == pytest.approx(float(x.double().mean()), rel=1e-7)


def test_chunks_with_different_means_are_merged():
    x = torch.cat([torch.full((CHUNK,), 5.0), torch.full((CHUNK,), -3.0), torch.ones(100)])
    row, _ = gradient_row(x)
    assert row[COLUMN[Stat.MEAN]] == pytest.approx(float(x.double().mean()), rel=1e-6)
    assert row[COLUMN[Stat.STD]] == pytest.approx(float(x.double().std(correction=0)), rel=1e-6)


@pytest.mark.parametrize("value", [1e-40, 1e-30, 1e30, 3e38])
def test_squares_neither_overflow_nor_vanish(value):
    x = torch.full((5000,), value)
    row, total = gradient_row(x)
    norm = float(x.double().norm())
    assert row[COLUMN[Stat.L2]] == pytest.approx(np.float32(norm), rel=1e-4)
    for squares in (total.squares, light([parameter(torch.zeros(5000), x)]).squares):
        assert squares == pytest.approx(norm**2, rel=1e-4)


def test_a_huge_update_does_not_overflow():
    step = measured(CudaGroup, [parameter(torch.ones(10))], change=lambda w: w * 1e30)
    assert step.matrices[Stream.UPDATE][0, :2] == pytest.approx([1e30, 1e30], rel=1e-5)


def test_nan_and_infinities_are_counted_and_left_out_of_the_moments():
    x = torch.ones(20_000)
    x[[3, 15_000]] = float("nan")
    x[7] = float("inf")
    row, total = gradient_row(x)
    assert row[COLUMN[Stat.NONFINITE]] == 3
    assert (row[0], row[1], row[2], row[3]) == (1, 0, 1, 1)
    for found in (total, light([parameter(torch.zeros(20_000), x)])):
        assert found.nonfinite == 1
        assert np.isnan(found.squares)


def test_a_tensor_without_finite_entries_has_no_moments():
    row, _ = gradient_row(torch.full((10,), float("nan")))
    assert np.isnan(row[:6]).all()
    assert row[6:8].tolist() == [0, 10]


def test_strided_and_unaligned_gradients_are_measured_as_they_are():
    x = torch.randn(64, 96)
    flat = torch.randn(CHUNK + 8)
    for view in (x.t(), x[::3, ::2], flat[1:], torch.ones(()).expand(7, 3)):
        row, _ = gradient_row(view)
        assert row[COLUMN[Stat.MEAN]] == pytest.approx(float(view.double().mean()), abs=1e-6)
        assert row[COLUMN[Stat.L2]] == pytest.approx(float(view.double().norm()), rel=1e-5)


def test_a_gradient_of_another_type_than_its_weight_is_measured():
    x = torch.randn(100)
    one = parameter(torch.zeros(100, dtype=torch.bfloat16))
    one.grad_dtype = torch.float32
    group, step = CudaGroup(members_of([one])), Step(1)
    one.grad = x.bfloat16().float()
    group.gradients(step, OWNER, distinct=False)
    one.grad = x
    group.gradients(step, OWNER, distinct=False)
    assert step.matrices[Stream.GRADIENT][0, 0] == pytest.approx(float(x.mean()), abs=1e-6)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_scaled_gradient_is_unscaled_but_not_its_counts(as_tensor):
    x = torch.tensor([2.0, 0.0, float("inf"), -6.0])
    unscale = torch.tensor(0.5) if as_tensor else 0.5
    step = gradients_of(CudaGroup, [parameter(torch.zeros(4), x)], unscale=unscale)
    row = step.matrices[Stream.GRADIENT][0]
    assert (row[COLUMN[Stat.MAX]], row[COLUMN[Stat.MIN]]) == (1, -3)
    assert (row[COLUMN[Stat.ZERO_SHARE]], row[COLUMN[Stat.NONFINITE]]) == (0.25, 1)
    finite = parameter(torch.zeros(2), torch.tensor([6.0, 8.0]))
    assert light([finite], unscale) == (25, 0)


def test_a_skipped_step_has_no_gradients():
    x = parameter(torch.zeros(4), torch.tensor([2.0, 0.0, float("inf"), -6.0]))
    skipped = torch.tensor(float("nan"))
    step = gradients_of(CudaGroup, [x], unscale=skipped)
    assert np.isnan(step.matrices[Stream.GRADIENT]).all()
    assert np.isnan(total_of(step)).all()
    assert np.isnan(light([x], skipped)).all()


def test_updates_that_rounding_absorbs_are_counted():
    weight = parameter(torch.ones(2048, dtype=torch.bfloat16))
    small = torch.cat([torch.full((1536,), 1e-4), torch.full((512,), 0.5)]).bfloat16()
    row = measured(CudaGroup, [weight], change=lambda w: w + small).matrices[Stream.UPDATE][0]
    assert row[STATISTICS[Stream.UPDATE].index(Stat.UNCHANGED_SHARE)] == 0.75


def test_only_parameters_with_a_gradient_have_a_row_and_count(monkeypatch):
    partials = Table.partials  # memory that no program writes must not be counted
    monkeypatch.setattr(Table, "partials", lambda *a: partials(*a).fill_(1.0))
    experts = [parameter(torch.zeros(3)) for _ in range(3)]
    group = CudaGroup(members_of(experts))
    for used in ([0], [1, 2], [], [0]):
        for i, expert in enumerate(experts):
            expert.grad = torch.full((3,), float(i + 1)) if i in used else None
        step = Step(3)
        group.gradients(step, OWNER, distinct=False)
        means = step.matrix(Stream.GRADIENT)[:, 0]
        assert [i for i in range(3) if not np.isnan(means[i])] == used
        step_of_norm = Step(3)
        group.norm(step_of_norm, OWNER)
        assert step_of_norm.totals == step.totals
        if used:
            assert total_of(step).nonfinite == 0
            assert total_of(step).squares == pytest.approx(3 * sum((i + 1) ** 2 for i in used))
        else:
            assert not step.totals


def test_a_group_with_a_sparse_gradient_is_measured_by_torch_operations():
    pair = [parameter(torch.zeros(3), torch.full((3,), 2.0)), parameter(torch.zeros(2, 4))]
    pair[1].grad = torch.ones(2, 4).to_sparse()
    group, step = CudaGroup(members_of(pair)), Step(2)
    group.gradients(step, OWNER, distinct=False)
    assert step.matrices[Stream.GRADIENT][0, 0] == 2
    assert total_of(step).squares >= 12


@pytest.mark.parametrize("inside_step", [False, True])
def test_a_weight_whose_memory_is_freed_is_not_read(inside_step):
    one = parameter(torch.ones(5))
    group, step = CudaGroup(members_of([one])), Step(1)
    if not inside_step:
        one.data.untyped_storage().resize_(0)
    group.weights(step, frozen=True, keep=True, distinct=False)
    one.data.untyped_storage().resize_(0)
    group.updates(step)
    assert np.isnan(step.matrices[Stream.WEIGHT][0, :8]).all() == (not inside_step)
    assert np.isnan(step.matrices[Stream.UPDATE]).all()


def test_frozen_weights_are_measured_when_wanted_and_have_no_update():
    pair = [parameter(torch.ones(5)), parameter(torch.ones(5), trained=False)]
    for frozen in (True, False):
        steps = both(pair, frozen=frozen, change=lambda w: w * 2)
        for stream in (Stream.WEIGHT, Stream.UPDATE):
            a, b = (measured_on_devices(step, stream) for step in steps)
            np.testing.assert_array_equal(a, b)


def test_a_weight_that_is_replaced_inside_a_step_has_no_update():
    one = parameter(torch.ones(5))
    group, step = CudaGroup(members_of([one])), Step(1)
    group.weights(step, frozen=True, keep=True, distinct=False)
    one.data = torch.ones(7)
    group.updates(step)
    assert Stream.UPDATE not in step.matrices


def test_a_weight_that_moved_in_memory_is_found_there():
    one = parameter(torch.ones(5))
    group, step = CudaGroup(members_of([one])), Step(1)
    group.weights(step, frozen=True, keep=True, distinct=False)
    one.data = torch.full((5,), 3.0)
    group.updates(step)
    assert step.matrices[Stream.UPDATE][0].tolist() == [2, 2, 2, 0]


def test_released_copies_give_no_update():
    group, step = CudaGroup(members_of([parameter(torch.ones(5))])), Step(1)
    group.weights(step, frozen=True, keep=True, distinct=False)
    group.release()
    group.updates(step)
    assert Stream.UPDATE not in step.matrices


def test_the_tables_are_copied_again_only_when_an_address_changed(monkeypatch):
    one = parameter(torch.ones(5), torch.ones(5))
    group = CudaGroup(members_of([one]))
    copied = []
    copy = group._uploads.copy
    monkeypatch.setattr(group._uploads, "copy", lambda *a: (copied.append(1), copy(*a)))
    for _ in range(3):
        group.norm(Step(1), OWNER)
    assert len(copied) == 1
    one.grad = torch.ones(5) * 2
    group.norm(Step(1), OWNER)
    assert len(copied) == 2


def test_the_row_of_a_tensor_does_not_depend_on_its_group():
    x, y = (parameter(torch.zeros(20_001), torch.randn(20_001)) for _ in "xy")
    alone = gradients_of(CudaGroup, [x]).matrices[Stream.GRADIENT][0]
    together = gradients_of(CudaGroup, [y, x]).matrices[Stream.GRADIENT][1]
    assert alone.tobytes() == together.tobytes()
