"""`replay` of a model that returns its own loss: a tiny language model of transformers."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

import trainvitals
from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.cli.app import app
from trainvitals.recorder import bundle
from trainvitals.replay import replay

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(120),
]

BAD, POISONED_STEP = 21, 6


class Rows(Dataset):
    """Sequences in which each token follows from the one before; the labels of one are random."""

    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.tokens = (torch.randint(32, (64, 1), generator=g) + 3 * torch.arange(12)) % 32
        self.labels = self.tokens.clone()
        for row in range(len(self.labels)):
            self.labels[row, : row % 8] = -100  # different numbers of targets
        self.labels[BAD] = torch.randint(32, (12,), generator=g)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index], "labels": self.labels[index]}


def made():
    torch.manual_seed(0)
    size = {"vocab_size": 32, "n_positions": 16, "n_embd": 32, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2), None, Rows()


def recorded(folder):
    """Train until the bad sequence was in a batch, then lose a batch's loss; return the file."""
    model, optimizer, _, rows = made()
    options = {"collector": "off", "every": 1, "record": folder, "record_state": True}
    monitor = trainvitals.watch(model, optimizer, **options)
    loader = DataLoader(rows, batch_size=8, shuffle=True)
    step = 0
    for _ in range(2):
        for batch in monitor.batches(loader):
            loss = model(**batch).loss
            optimizer.zero_grad()
            monitor.loss(loss * float("nan") if step == POISONED_STEP + 8 else loss).backward()
            optimizer.step()
            step += 1
    monitor.close()
    [path] = monitor.recordings
    return path


def step_of_bad(found):
    return next(s for s, c in sorted(found.contexts.items(), reverse=True) if BAD in c.batches[0])


def test_the_loss_is_reproduced_and_the_bad_sequence_is_named_first(tmp_path):
    found = bundle.read(recorded(tmp_path))
    model, optimizer, loss, rows = made()
    again = replay(found, model, optimizer, loss, rows, step_of_bad(found))
    assert again.is_reproduced is True
    assert again.samples[0].index == BAD


def test_the_command_replays_it(tmp_path):
    path = recorded(tmp_path)
    step = step_of_bad(bundle.read(path))
    factory = f"{__name__}:made"
    result = CliRunner().invoke(app, ["replay", str(path), factory, "--step", str(step)])
    assert result.exit_code == 0, result.output
    assert "The recorded loss was reproduced." in result.output
