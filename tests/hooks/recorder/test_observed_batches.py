"""`monitor.batches` notes the sample indices of a DataLoader, and changes no training."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import trainvitals
from helpers.noisy_samples import loader_of, noisy_samples
from helpers.watching import network, own_home  # noqa: F401 - a fixture

# The training is the same.


def outcome(*, record, workers, batches=True, context=None, **options):
    """Train two epochs; return everything that could differ."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    monitor = trainvitals.watch(model, optimizer, collector="off", record=record, **options)
    loader = loader_of(
        noisy_samples(), workers, multiprocessing_context=context, persistent_workers=workers > 0
    )
    inputs, losses = [], []
    for _ in range(2):
        for x, y in monitor.batches(loader) if batches else loader:
            loss = nn.functional.cross_entropy(model(x), y, reduction="none")
            inputs.append(x)
            losses.append(loss.detach())
            optimizer.zero_grad()
            monitor.loss(loss).mean().backward()
            optimizer.step()
    monitor.close()
    return {
        "inputs": torch.stack(inputs),
        "losses": torch.stack(losses),
        "weights": torch.cat([p.detach().reshape(-1) for p in model.parameters()]),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
    }


@pytest.mark.parametrize(
    ("workers", "context", "record_state"),
    [(0, None, False), (0, None, True), (2, "fork", False), (1, "spawn", False)],
    ids=["in this process", "with the state", "fork", "spawn"],
)
def test_the_training_and_the_order_of_the_batches_are_the_same(
    tmp_path, workers, context, record_state
):
    plain = outcome(record=False, workers=workers, batches=False, context=context)
    recorded = outcome(record=tmp_path, workers=workers, context=context, record_state=record_state)
    for name, value in plain.items():
        same = torch.equal(value, recorded[name]) if torch.is_tensor(value) else None
        assert same or value == recorded[name], name


# Batches.


class ReadsAhead(DataLoader):
    """As some frameworks' loaders: draws the next batch before it yields the present one."""

    def __iter__(self):
        batches = super().__iter__()
        present = next(batches)
        for following in batches:
            yield present
            present = following
        yield present


def test_the_indices_of_a_loader_that_reads_ahead_are_those_of_the_batch_that_arrived(tmp_path):
    loader = ReadsAhead(TensorDataset(torch.arange(32.0)[:, None]), batch_size=8)
    monitor = trainvitals.watch(network(), collector="off", record=tmp_path)
    for step, _ in enumerate(monitor.batches(loader)):
        monitor._recorder.step_ended(step)
    contexts = monitor._recorder._ring.freeze().contexts
    monitor.close()
    assert [list(c.batches[0]) for c in contexts] == [
        list(range(8 * k, 8 * k + 8)) for k in range(4)
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_indices_are_those_of_the_batch_that_arrived(tmp_path, workers):
    x = torch.arange(64.0)[:, None].repeat(1, 8)
    loader = loader_of(TensorDataset(x), workers)
    monitor = trainvitals.watch(network(), collector="off", record=tmp_path)
    seen = []
    for step, (rows,) in enumerate(monitor.batches(loader)):
        seen.append(rows[:, 0].tolist())
        monitor._recorder.step_ended(step)
    contexts = monitor._recorder._ring.freeze().contexts
    monitor.close()
    assert [[list(i) for i in c.batches] for c in contexts] == [[s] for s in seen]


def test_a_dataloader_is_not_changed_by_it(tmp_path):
    loader = loader_of(noisy_samples())
    before, sampler = dict(loader.__dict__), loader.batch_sampler
    monitor = trainvitals.watch(network(), collector="off", record=tmp_path)
    observed = monitor.batches(loader)
    list(observed)
    assert loader.__dict__ == before
    assert loader.batch_sampler is sampler
    assert b"trainvitals" not in pickle.dumps(loader.batch_sampler)
    assert type(copy.deepcopy(loader).batch_sampler) is type(sampler)
    assert len(observed) == len(loader) == 12
    assert observed.dataset is loader.dataset
    assert monitor.batches(loader) is observed
    monitor.close()
    assert monitor.batches(loader) is loader


def test_several_batches_of_one_step_are_kept_in_order(tmp_path):
    loader = loader_of(noisy_samples())
    monitor = trainvitals.watch(network(), collector="off", record=tmp_path)
    recorder = monitor._recorder
    for at, _ in enumerate(monitor.batches(loader)):
        if at % 3 == 2:
            recorder.step_ended(at // 3)
    sizes = [[len(b) for b in c.batches] for c in recorder._ring.freeze().contexts]
    monitor.close()
    assert sizes == [[8, 8, 8]] * 4


class Stream1(IterableDataset):
    def __iter__(self):
        return iter(torch.zeros(4, 8))


class Stateful(DataLoader):
    """As torchdata's StatefulDataLoader: a checkpoint contains its position."""

    def load_state_dict(self, state):
        self.state = state


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        ([1, 2], "was given a list"),
        (Stateful(TensorDataset(torch.zeros(4, 8)), batch_size=2), "position for checkpoints"),
        (DataLoader(Stream1(), batch_size=2), "IterableDataset"),
    ],
)
def test_what_has_no_indices_is_returned_with_the_reason(tmp_path, loader, reason):
    monitor = trainvitals.watch(network(), collector="off", record=tmp_path)
    assert monitor.batches(loader) is loader
    monitor.close()
    assert reason in monitor.diagnosis().not_watched["sample indices"]


# Loaders that raise.


class Compared(DataLoader):
    """All are equal, and none has a hash."""

    def __eq__(self, other):
        return isinstance(other, Compared)

    __hash__ = None


class Uncopied(DataLoader):
    def __getstate__(self):
        raise RuntimeError("holds a connection")


def test_a_dataloader_without_a_hash_is_observed(tmp_path):
    monitor = trainvitals.watch(network(), collector="off", record=tmp_path)
    first = Compared(TensorDataset(torch.zeros(4, 8)), batch_size=2)
    second = Compared(TensorDataset(torch.ones(4, 8)), batch_size=2)
    for loader, value in ((first, 0), (second, 1)):
        observed = monitor.batches(loader)
        assert observed is not loader
        assert monitor.batches(loader) is observed
        assert all((x == value).all() for (x,) in observed)
    monitor.close()
    assert monitor._recorder.errors == 0


def test_a_dataloader_that_cannot_be_copied_is_returned_and_counted_once(tmp_path):
    monitor = trainvitals.watch(network(), collector="off", record=tmp_path)
    loader = Uncopied(TensorDataset(torch.zeros(4, 8)), batch_size=2)
    assert all(monitor.batches(loader) is loader for _ in range(5))
    assert monitor._recorder.errors == 1
    monitor._recorder.step_ended(0)
    assert len(monitor._recorder._ring.freeze().contexts) == 1
    monitor.close()
    assert "raised RuntimeError" in monitor.diagnosis().not_watched["sample indices"]


def test_a_dataloader_is_not_kept_alive(tmp_path):
    monitor = trainvitals.watch(network(), collector="off", record=tmp_path)
    monitor.batches(loader_of(noisy_samples()))
    assert not monitor._recorder._loaders
    monitor.close()
