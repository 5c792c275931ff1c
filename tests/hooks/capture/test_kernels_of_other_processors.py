"""The kernels that other processors run give the same numbers as those of this one."""

import ast
import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from trainvitals.capture.backends import native
from trainvitals.capture.backends.members import Member
from trainvitals.capture.backends.shapes import shape_of
from trainvitals.capture.liveness import Mode
from trainvitals.capture.step import PARAMETER_STREAMS, Step
from trainvitals.wire import STATISTICS, Stream

ROOT = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.skipif(not native.is_available(), reason="the kernels are not built"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
]
KINDS = {"vectors of 32 bytes": "TRAINVITALS_NARROW", "portable C": "TRAINVITALS_PORTABLE"}


def of_the_build(name):
    """Return a constant of hatch_build.py, which only a build can import."""
    tree = ast.parse((ROOT / "hatch_build.py").read_text())
    assigned = [n for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == name]
    return ast.literal_eval(assigned[0].value)


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def built(request, tmp_path):
    target = tmp_path / "kernels.so"
    folder = Path(native.__file__).parent
    sources = [str(folder / source) for source in of_the_build("SOURCES")]
    command = ["cc", *of_the_build("FLAGS"), f"-D{request.param}", "-o", str(target), *sources]
    subprocess.run([*command, "-lm"], check=True)
    library = ctypes.PyDLL(str(target))
    for name, types in native._ARGUMENTS.items():
        getattr(library, name).argtypes = types
    library.tv_distinct_rows.restype = ctypes.c_double
    return library


def tensors():
    g = torch.Generator().manual_seed(0)
    ordinary = [torch.randn(n, generator=g) * s + m for n, s, m in SIZES]
    odd = torch.randn(5000, generator=g)
    odd[::7] = 0
    bad = odd.clone()
    bad[3], bad[4000] = torch.inf, torch.nan
    huge = odd * 1e30
    halves = [torch.randn(3000, generator=g).to(t) for t in (torch.bfloat16, torch.float16)]
    return [*ordinary, odd, bad, huge, *halves, torch.randn(70, generator=g).double()]


SIZES = [(1, 1, 0), (31, 1, 0), (64, 1e-3, 5), (2048, 1, 0), (100_000, 0.02, 0), (9001, 1, 1000)]


def of_parameters():
    step = Step(len(tensors()))
    members = [Member(torch.nn.Parameter(t), row) for row, t in enumerate(tensors())]
    for member in members:
        member.parameter.grad = member.tensor.detach() * 0.5
    group = native.NativeGroup(members)
    group.gradients(step, group, distinct=False)
    group.weights(step, frozen=True, keep=True, distinct=False)
    with torch.no_grad():
        for member in members:
            member.parameter[::3] *= 1.01
    group.updates(step)
    return [step.matrix(stream) for stream in PARAMETER_STREAMS]


def of_outputs():
    kernel, rows = native.OutputKernel(), []
    for shape in [(64, 64), (7, 9), (300, 40), (4, 6, 5, 5), (2, 3, 16)]:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).relu()
        for spoil in (False, True):
            if spoil:
                x.view(-1)[5] = torch.nan
            row = np.full(len(STATISTICS[Stream.ACTIVATION]), np.nan, np.float32)
            prepared = native.Prepared(shape_of(x, torch.nn.ReLU(), 0), x.dtype, Mode.TANH, None)
            kernel.measure(x.data_ptr(), prepared, row.ctypes.data)
            rows.append(row)
    return [np.array(rows)]


def test_they_give_the_same_statistics(built, monkeypatch):
    expected = [*of_parameters(), *of_outputs()]
    monkeypatch.setattr(native, "_keeping_gil", built)
    monkeypatch.setattr(native, "_releasing_gil", built)
    for there, here in zip([*of_parameters(), *of_outputs()], expected, strict=True):
        assert np.isfinite(here).any(axis=1).all()
        np.testing.assert_allclose(there, here, rtol=2e-5, atol=2e-7)
