"""The CUDA backend: its arithmetic in Triton's interpreter, its transfer, and its promises on CUDA.

Covered without a GPU: the arithmetic of every kernel and the tables (interpreted_kernels.py, on
the CPU), that the kernels compile for two GPUs with wide reads and without atomics, and the queue
of the transfer with events that are made up. Not covered without one: streams, real events, pinned
memory, several devices, speed, and that equal entries give equal bits on a GPU. The tests marked
`cuda` cover a part of that.
"""

import os
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import trainvitals
from trainvitals.capture import Capture
from trainvitals.capture import transfer as transfer_module
from trainvitals.capture.backends import cuda, device_tables, groups_of
from trainvitals.capture.backends.members import Member
from trainvitals.capture.backends.native import NativeGroup
from trainvitals.capture.device import PinnedMemory, Uploads
from trainvitals.capture.step import PARAMETER_STREAMS, Remote, Step
from trainvitals.capture.transfer import Transfer
from trainvitals.wire import NotWatched, Stream

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed: pip install triton"
)
KERNELS = {
    "moments": {"EXTRAS": True},
    "squares": {},
    "changes": {},
    "moment_rows": {"EXTRAS": True, "COLUMNS": 11},
    "square_rows": {},
    "change_rows": {},
    "total": {},
}
TYPES = {
    "addresses": "*i64",
    "firsts": "*i64",
    "copies": "*i64",
    "owners": "*i32",
    "chunk_starts": "*i32",
    "counts": "*i64",
    "partials": "*fp64",
    "factor": "*fp64",
    "rows": "*fp32",
    "squares": "*fp64",
    "out": "*fp64",
    "first_chunk": "i32",
    "chunks": "i32",
    "tensors": "i32",
}


@needs_triton
@pytest.mark.timeout(400)
@pytest.mark.parametrize("chosen", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_arithmetic_agrees_with_the_native_kernels(chosen):
    file = Path(__file__).with_name("interpreted_kernels.py")
    # Triton reads the variable when it is imported: in this process it would affect other tests.
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", chosen, str(file)],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped" not in run.stdout


def assembly(name, capability, dtype):
    """Return the PTX of a kernel for an NVIDIA GPU that need not be there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(device_tables.kernels(), name)
    fixed = KERNELS[name] | {
        "WIDTH": device_tables.WIDTH,
        "CHUNK": device_tables.CHUNK,
        "ALIGNMENT": 16,
    }
    fixed |= {
        "TYPE": device_tables.type_of(dtype),
        "WIDE": device_tables.type_of(device_tables.wide(dtype)),
    }
    fixed = {n: fixed[n] for n in kernel.arg_names if n in fixed}
    source = ASTSource(
        kernel,
        {n: "constexpr" if n in fixed else TYPES[n] for n in kernel.arg_names},
        constexprs={(kernel.arg_names.index(n),): value for n, value in fixed.items()},
    )
    options = {"num_warps": device_tables.WARPS, **device_tables.OPTIONS}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm[
        "ptx"
    ]


@needs_triton
@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_compiles_with_wide_reads_and_without_atomics(
    name, capability, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    reads_entries = name in {"moments", "squares", "changes"}
    for dtype in (torch.float32, torch.bfloat16, torch.float64)[: 3 if reads_entries else 1]:
        text = assembly(name, capability, dtype)
        assert "atom." not in text
        assert "red.global" not in text
        if reads_entries:
            wide = "ld.global.v2.b64" if dtype == torch.float64 else "ld.global.v4.b32"
            assert wide in text


def test_slots_of_pinned_memory_are_used_again():
    memory = PinnedMemory(pinned=False)
    first = memory.take(700, torch.float64)
    address = first.data_ptr()
    assert first.shape == (700,)
    assert memory.take(700, torch.float64).data_ptr() != address
    memory.give_back(first)
    again = memory.take(900, torch.float64)
    assert (again.data_ptr(), again.shape) == (address, (900,))


def test_an_upload_copies_every_entry():
    target = torch.zeros((3, 5), dtype=torch.int64)
    source = torch.arange(15).reshape(3, 5)
    Uploads(torch.device("cpu")).copy(source, target)
    assert torch.equal(target, source)


class Event:
    """An event that completes on request."""

    def __init__(self):
        self.passed = False

    def query(self):
        return self.passed


class LateTransfer(Transfer):
    """A transfer from the CPU whose copies complete on request."""

    def __init__(self):
        super().__init__()
        self._memory = PinnedMemory(pinned=False)
        self.events = []

    def _copy(self, remotes, device):
        copied = super()._copy(remotes, device)
        host = self._memory.take(copied.host.numel(), copied.host.dtype)
        host.copy_(copied.host)
        self.events.append(Event())
        return copied._replace(host=host, event=self.events[-1])


def step_with(value):
    step = Step(3)
    step.remote.append(Remote(torch.full((2, 4), value), Stream.UPDATE, [2, 0]))
    step.remote.append(Remote(torch.tensor([value**2, 1.0], dtype=torch.float64), id("owner")))
    step.remote.append(Remote(torch.tensor(value), "loss"))
    return step


def test_steps_are_emitted_in_their_order_when_their_events_have_passed():
    transfer, emitted = LateTransfer(), []
    for value in (1.0, 2.0):
        transfer.submit(step_with(value), emitted.append)
    transfer.submit(Step(3), emitted.append)
    transfer.events[1].passed = True
    transfer.poll()
    assert not emitted
    transfer.events[0].passed = True
    transfer.poll()
    assert [step.scalars.get("loss") for step in emitted] == [1, 2, None]
    matrix = emitted[1].matrices[Stream.UPDATE]
    assert matrix[[0, 2]].tolist() == [[2] * 4] * 2
    assert np.isnan(matrix[1]).all()
    assert emitted[1].totals[id("owner")] == (4, 1)


def test_at_the_end_every_step_is_waited_for():
    transfer, emitted = LateTransfer(), []
    transfer.submit(step_with(1.0), emitted.append)
    threading.Timer(0.1, setattr, (transfer.events[0], "passed", True)).start()
    transfer.finish()
    assert (len(emitted), transfer.given_up) == (1, 0)


def test_a_device_that_hangs_does_not_keep_the_program_from_its_end(monkeypatch):
    monkeypatch.setattr(transfer_module, "FINISH_S", 0.05)
    transfer, emitted = LateTransfer(), []
    for value in (1.0, 2.0):
        transfer.submit(step_with(value), emitted.append)
    transfer.events[0].passed = True
    transfer.finish()
    assert (len(emitted), transfer.given_up) == (1, 1)


def test_a_device_that_does_not_answer_costs_a_bounded_amount_of_memory():
    transfer, emitted = LateTransfer(), []
    extra = 40
    for i in range(transfer_module.WAITING_MAX + extra):
        transfer.submit(step_with(float(i)), emitted.append)
        if i >= transfer_module.WAITING_MAX:
            transfer.events[i - transfer_module.WAITING_MAX].passed = True
            transfer.poll()
    assert transfer.given_up + len(emitted) == extra
    [(_, free)] = transfer._memory._free.items()
    assert len(free) + transfer_module.WAITING_MAX <= transfer_module.WAITING_MAX + 2 * 8


def test_steps_that_a_device_did_not_deliver_are_reported_at_the_end():
    model, records = nn.Linear(3, 1), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture = Capture(model, optimizer, emit=records.append)
    capture._emission._transfer = late = LateTransfer()
    for i in range(transfer_module.WAITING_MAX + 3):
        late.submit(step_with(float(i)), records.append)
    for event in late.events:
        event.passed = True
    capture.detach()
    assert capture.not_watched["steps"].startswith("3 steps were not recorded: the device")
    assert any("steps" in r.reasons for r in records if isinstance(r, NotWatched))


def test_without_a_device_no_group_is_a_cuda_group():
    assert not cuda.is_available(torch.device("cpu"))
    [group] = groups_of([Member(nn.Parameter(torch.ones(3)), 0)])
    assert isinstance(group, NativeGroup)


# On CUDA: never run up to now.

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def trained(device):
    """Return members in all types and sizes, with gradients."""
    made = []
    for i, count in enumerate((0, 1, 15, 8191, 8192, 8193, 100_000)):
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            generator = torch.Generator().manual_seed(i)
            x, g = (torch.randn(count, generator=generator).to(dtype) for _ in "xg")
            parameter = nn.Parameter(x.to(device))
            parameter.grad = g.to(device)
            made.append(Member(parameter, len(made), parameter.detach().clone() * 2))
    return made


def run_step(group, members, transfer, steps):
    step = Step(len(members))
    group.norm(step, "owner")
    group.gradients(step, "owner", 0.5, distinct=False)
    group.weights(step, frozen=True, keep=True, distinct=False)
    tensors = [m.tensor.detach() for m in members]
    torch._foreach_mul_(tensors, 1.5)
    group.updates(step)
    torch._foreach_div_(tensors, 1.5)
    transfer.submit(step, steps.append)


@pytest.fixture
def sync_is_an_error():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@on_cuda
@needs_triton
def test_a_step_on_cuda_never_waits_and_has_the_numbers_of_the_cpu(request):
    members = trained("cuda")
    [group] = groups_of(members)
    assert isinstance(group, cuda.CudaGroup)
    transfer, steps = Transfer(), []
    run_step(group, members, transfer, steps)  # compiles, and allocates pinned memory
    request.getfixturevalue("sync_is_an_error")
    for _ in range(3):
        run_step(group, members, transfer, steps)
    torch.cuda.set_sync_debug_mode("default")
    transfer.poll(wait=True)
    here, expected = trained("cpu"), []
    run_step(NativeGroup(here), here, Transfer(), expected)
    for stream in PARAMETER_STREAMS:
        a, b = (found[-1].matrices[stream] for found in (steps, expected))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=stream)
        # Without atomics, equal entries give equal bits.
        assert steps[1].matrices[stream].tobytes() == steps[2].matrices[stream].tobytes()
    assert steps[-1].totals == pytest.approx(expected[-1].totals, rel=1e-5)
    assert transfer.device_s() > 0


@pytest.mark.cuda
@on_cuda
@needs_triton
@pytest.mark.parametrize("fused", [False, True])
def test_a_watched_training_on_cuda_never_waits(fused, request):
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    x = torch.randn(32, 64, device="cuda")

    def train(steps):
        for _ in range(steps):
            loss = model(x).square().mean()
            monitor.loss(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    with trainvitals.watch(model, optimizer, collector="off", every=2) as monitor:
        train(70)  # beyond the first steps, and one search for new parameters
        request.getfixturevalue("sync_is_an_error")
        train(10)
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@on_cuda
@needs_triton
def test_a_step_inside_a_cuda_graph_is_not_measured():
    members = trained("cuda")
    [group] = groups_of(members)
    transfer, steps = Transfer(), []
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run_step(group, members, transfer, steps)
    graph.replay()
    transfer.poll(wait=True)
    assert not steps[-1].matrices
    assert not steps[-1].totals
