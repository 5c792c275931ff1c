"""Two ranks as torchrun starts them, with averaged gradients or without, and a collector."""

from __future__ import annotations

import os
import time

import pytest
import sqlalchemy as sa

from helpers.collector import running_collector
from helpers.warm_ranks import run_ranks
from trainvitals.api.client import Client
from trainvitals.api.schema import Severity
from trainvitals.diagnosis.rules.rank_divergence import WRAP
from trainvitals_server.store.models import Run

pytestmark = pytest.mark.timeout(240)

STEPS = 100
PROGRAM = """
import torch
import torch.distributed as dist
from torch import nn

import trainvitals

dist.init_process_group("gloo")
torch.manual_seed(0)
x = torch.randn(4096, 8)
y = (x[:, 0] + 0.5 * torch.randn(len(x)) > 0).long()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
{wrap}
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
monitor = trainvitals.watch(model, optimizer)
torch.manual_seed(1 + dist.get_rank())  # each rank has data of its own
for step in range({steps}):
    rows = torch.randint(len(x), (32,))
    loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
    optimizer.zero_grad()
    monitor.loss(loss).backward()
    optimizer.step()
monitor.close()
print("code of this rank:", [f.code for f in monitor.diagnosis().findings], flush=True)
dist.destroy_process_group()
"""


def trained(folder, collector, wrap):
    """Train on two ranks, and return what the collector and the ranks themselves found."""
    (folder / "train.py").write_text(PROGRAM.format(wrap=wrap, steps=STEPS))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TRAINVITALS_")}
    done = run_ranks(
        "train.py",
        cwd=folder,
        env=kept
        | {
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "TRAINVITALS_COLLECTOR": collector.url,
            "TRAINVITALS_TOKEN": collector.token,
        },
        timeout_s=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    client = Client(collector.url, collector.token)
    [run] = client.runs().runs
    assert client.run(run.id).completeness.complete
    return done.stdout, lambda: client.findings(run.id)


def is_diagnosis_due(collector):
    """Whether a batch arrived that no round of the diagnosis has read, with those of all ranks."""
    with collector.store.database.read() as connection:
        return connection.execute(sa.select(Run.revision > Run.rounded)).scalar_one()


def of_ranks(findings):
    return [f for f in findings.findings if f.code == "TV953"]


def test_the_collector_names_it_within_100_steps_and_the_ranks_alone_cannot(tmp_path):
    with running_collector(tmp_path / "collector") as collector:
        printed, findings = trained(tmp_path, collector, "")
        deadline = time.monotonic() + 30
        while not (found := of_ranks(findings())):
            assert time.monotonic() < deadline, findings()
            time.sleep(0.2)
    [named] = found
    assert (named.severity, named.since_step, named.fix) == (Severity.ERROR, 0, WRAP)
    assert "The ranks train separate models: gradients are not averaged." in named.summary
    assert printed.count("code of this rank:") == 2
    assert "TV953" not in printed


def test_the_collector_is_silent_about_the_program_with_that_fix(tmp_path):
    with running_collector(tmp_path / "collector") as collector:
        printed, findings = trained(tmp_path, collector, WRAP)
        deadline = time.monotonic() + 30
        while is_diagnosis_due(collector):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert of_ranks(findings()) == []
    assert "TV953" not in printed
