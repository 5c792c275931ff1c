"""`torchrun … -m trainvitals run` and `accelerate launch --module trainvitals run`, two ranks each.

The ranks communicate with gloo; the programs do not mention trainvitals.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap

import pytest

from helpers.watching import own_home  # noqa: F401 - a fixture

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.timeout(300),
    pytest.mark.slow,  # two processes, each of which imports torch
]

RANKS = {
    "torchrun": """
        import torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel

        dist.init_process_group("gloo")
        rank = dist.get_rank()
        model = DistributedDataParallel(model)
        backward = torch.Tensor.backward
        """,
    "accelerate": """
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True)
        rank, backward = accelerator.process_index, accelerator.backward
        assert accelerator.num_processes == 2
        model, optimizer = accelerator.prepare(model, optimizer)
        """,
}
PROGRAM = """
import sys
import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
body = model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=float(sys.argv[1]))
{ranks}
torch.manual_seed(rank)  # each rank has data of its own
for step in range(120):
    x = torch.randn(32, 8)
    y = (x[:, 0] > 0).long()
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    backward(loss)
    optimizer.step()
# One string: without a buffer (PYTHONUNBUFFERED), print writes each argument alone, and lines mix.
total = body[0].weight.sum().item().hex()
print(f"rank {{rank}} {{sys.argv[1:]}} {{total}}\\n", end="", flush=True)
torch.distributed.destroy_process_group()
"""
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    # Without a GPU this option only starts processes; the program chooses the CPU and gloo.
    "accelerate": [
        *("accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_machines", "1"),
        *("--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "0"),
    ],
}
AS_MODULE = {"torchrun": "-m", "accelerate": "--module"}


@pytest.fixture
def launched(tmp_path):
    """Return a function that runs the program in two ranks and returns the finished launcher."""

    def launched(launcher, rate, *, watched=True, options=()):
        ranks = textwrap.dedent(RANKS[launcher])
        (tmp_path / "train.py").write_text(PROGRAM.format(ranks=ranks))
        command = [AS_MODULE[launcher], "trainvitals", "run", *options] if watched else []
        return subprocess.run(
            [sys.executable, "-m", *LAUNCHERS[launcher], *command, "train.py", rate, "--more"],
            cwd=tmp_path,
            env={**os.environ, "TRAINVITALS_REPORT": "line", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=200,
        )

    return launched


def of_ranks(done):
    return sorted(line for line in done.stdout.splitlines() if line.startswith("rank "))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_both_ranks_are_one_healthy_run_and_train_as_without_it(launched, launcher):
    watched = launched(launcher, "1e-2")
    assert watched.returncode == 0, watched.stderr[-3000:]
    plain = launched(launcher, "1e-2", watched=False)
    assert of_ranks(watched) == of_ranks(plain)
    assert [line.split()[1] for line in of_ranks(watched)] == ["0", "1"]
    assert "['1e-2', '--more']" in watched.stdout
    verdicts = re.findall(r"trainvitals: run (\S+): (\w+)", watched.stdout + watched.stderr)
    assert [verdict for _, verdict in verdicts] == ["healthy"]  # the first rank reports


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_fail_on_reaches_the_exit_code_of_the_launcher(launched, launcher):
    done = launched(launcher, "1e3", options=["--fail-on", "error"])
    assert done.returncode != 0
    assert len(of_ranks(done)) == 2  # the program itself ended in both ranks
    assert re.search(r"trainvitals: run \S+: (?!healthy)", done.stdout + done.stderr)
