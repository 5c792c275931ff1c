"""TV953 over a real database: the records of two gloo processes, and the findings about them."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")

from helpers import ranks_training as program
from trainvitals.api.schema import Severity
from trainvitals.diagnosis.rules.rank_divergence import RankDivergence
from trainvitals.wire import decode
from trainvitals_server.store import Store
from trainvitals_server.store.histories import Histories

pytestmark = pytest.mark.timeout(300)  # it starts processes that import torch

RANKS = 2
KINDS = (
    "ddp",
    "changed",
    "clipped",
    "unreduced",
    "alone",
    "fsdp1",
    "fsdp2",
    "fsdp2_clipped",
    "hsdp",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)]
    done = subprocess.run(
        [*command, program.__file__, str(folder), *KINDS],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    store = Store.open(f"sqlite:///{folder / 'trainvitals.db'}", clock=lambda: 1_700_000_100.0)
    for path in sorted(folder.glob("*.bin")):
        body = path.read_bytes()
        store.ingest(decode(body), body)
    yield store
    store.close()


def history(store, kind):
    with store.database.read() as connection:
        return Histories().get(connection, store.run(kind).pk)


def findings(store, kind):
    return list(RankDivergence().check(history(store, kind)))


@pytest.mark.parametrize("kind", ["changed", "clipped"])
def test_a_weight_that_one_rank_alone_changes_is_found_at_the_next_step(store, kind):
    [found] = findings(store, kind)
    assert found.where.endswith("3.weight")
    assert found.since_step in (program.CHANGED_AT, program.CHANGED_AT + 1)
    assert found.evidence[0].seen > 0.005


def test_gradients_that_one_rank_alone_changes_are_found(store):
    [found] = findings(store, "unreduced")
    assert found.since_step in (program.CHANGED_AT, program.CHANGED_AT + 1)


def test_clipped_norms_that_are_equal_on_independent_ranks_prove_no_reduction(store):
    assert findings(store, "alone") == []
    rule = RankDivergence(steps_apart=program.STEPS)
    [found] = rule.check(history(store, "alone"))
    assert found.severity is Severity.INFO
    assert "separate models" in found.summary


@pytest.mark.parametrize("kind", ["ddp", "fsdp1", "fsdp2", "fsdp2_clipped", "hsdp"])
def test_healthy_ranks_and_shards_are_silent(store, kind):
    seen = history(store, kind)
    assert list(seen.ranks) == [1]
    assert findings(store, kind) == []
