"""A program for test_ranks_that_train_separate_models.py, run once for each rank by torchrun.

Usage: separate_training.py FOLDER KIND...; writes the batches of a rank to FOLDER/KIND-RANK.bin.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from trainvitals.capture import Capture
from trainvitals.wire import Batch, Record, RunStart, encode

STEPS = 72
AVERAGED_EVERY = 32
MICRO_BATCHES = 4
WITHOUT_A_GROUP = ("no_group",)
"""Kinds that train before a process group is initialised."""


class Mixture(nn.Module):
    """A layer that all ranks share, and an expert of this rank."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16))
        self.add_module(name, nn.Linear(16, 4))
        self.own = name

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule(self.own)(self.shared(x))


class Sum(torch.autograd.Function):
    """The sum over the ranks; each rank's term has the gradient of the sum."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class Slice(nn.Module):
    """This rank's part of two layers that are divided over the ranks, in plain tensors."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        torch.manual_seed(rank)
        self.columns = nn.Linear(6, 8, bias=False)
        self.rows = nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return Sum.apply(self.rows(self.columns(x).tanh()))


class Stage(nn.Module):
    """A stage of a pipeline of two: it sends its output on, or receives its input."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rank = rank
        self.layers = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        if self.rank == 0:
            self.sent: Tensor = self.layers(x)
            distributed.send(self.sent.detach(), 1)
            return self.sent
        self.received = torch.empty(8, 6)
        distributed.recv(self.received, 0)
        return self.layers(self.received.requires_grad_())

    def backward(self, loss: Tensor) -> None:
        if self.rank == 0:
            gradient = torch.empty(8, 6)
            distributed.recv(gradient, 1)
            self.sent.backward(gradient)
            return
        loss.backward()
        distributed.send(self.received.grad, 0)


def network(seed: int, width: int = 16) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 4))


def mixture(seed: int, name: str) -> Mixture:
    torch.manual_seed(seed)
    return Mixture(name)


def model_of(kind: str, rank: int) -> nn.Module:
    """Return what this rank gives to `watch`."""
    match kind:
        case "wrapped" | "bare" | "no_sync" | "accumulated" | "manual":
            model = network(0)
            return model if kind == "manual" else DistributedDataParallel(model)
        case "seeds" | "no_group":
            return network(rank)
        case "architectures":
            return network(0, 16 + 8 * rank)
        case "slices":
            return Slice(rank)
        case "equal_stages":
            return Stage(rank)
        case "stages":  # each stage of a pipeline has its own layers
            return network(rank) if rank else nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        case "experts" | "equal_experts" | "heads":
            model = mixture(0, "head" if kind == "heads" else "experts")
            if kind == "experts":
                torch.manual_seed(rank)
                model.get_submodule("experts").reset_parameters()
            if kind == "heads":  # deliberately local: the wrapper leaves them out
                local = [f"head.{name}" for name, _ in model.head.named_parameters()]
                DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, local)
                return DistributedDataParallel(model)
            model.shared = DistributedDataParallel(model.shared)
            return model
        case "part":
            model = mixture(0, "head")
            model.shared = DistributedDataParallel(model.shared)
            return model
    return network(0)


def called(kind: str, model: nn.Module) -> nn.Module:
    """Return what the training step calls."""
    return model.module if kind == "bare" else model


def average(tensors: list[Tensor], ranks: int) -> None:
    """Replace tensors by their means over the ranks."""
    for tensor in tensors:
        distributed.all_reduce(tensor)
        tensor /= ranks


def records_of(kind: str, rank: int) -> list[Record]:
    """Train on this rank's own data, and return what it recorded."""
    model, records = model_of(kind, rank), list[Record]()
    rate = 1e-2 * (1 + rank) if kind == "rates" else 1e-2
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    if kind == "one_reports" and rank:
        return []
    capture = Capture(model, optimizer, emit=records.append, every=1)
    records.append(RunStart(started_at=1_700_000_000.0, facts=capture.facts))
    draw = torch.Generator().manual_seed(0 if kind == "slices" else rank)
    micro_batches = MICRO_BATCHES if kind in ("accumulated", "no_sync") else 1
    for step in range(STEPS):
        if kind == "actor" and rank:  # it plays with the learner's weights
            capture.loss(model(torch.randn(8, 6, generator=draw)).square().mean().item())
            continue
        optimizer.zero_grad()
        for i in range(micro_batches):
            apart = kind == "no_sync" or (kind == "accumulated" and i < micro_batches - 1)
            with model.no_sync() if apart else contextlib.nullcontext():
                loss = called(kind, model)(torch.randn(8, 6, generator=draw)).square().mean()
                if kind not in ("stages", "equal_stages") or rank:
                    capture.loss(loss)
                model.backward(loss) if isinstance(model, Stage) else loss.backward()
        if kind == "manual":
            average([p.grad for p in model.parameters()], distributed.get_world_size())
        optimizer.step()
        if kind == "local_sgd" and (step + 1) % AVERAGED_EVERY == 0:
            with torch.no_grad():
                average([p.data for p in model.parameters()], distributed.get_world_size())
    capture.detach()
    return records


def write(folder: Path, kind: str, rank: int) -> None:
    """Write the records of a rank as a batch, if it has any."""
    records = records_of(kind, rank)
    if not records:
        return
    source = f"{kind:>14}-{rank}".encode()[-16:]
    start = [r for r in records if isinstance(r, RunStart)]
    others = [r for r in records if not isinstance(r, RunStart)]
    batch = Batch(kind, "p", source, 0, 1_700_000_000.0, rank, (*start, *others), None)
    (folder / f"{kind}-{rank}.bin").write_bytes(encode(batch))


def main(folder: Path, kinds: list[str], rank: int) -> None:
    for kind in kinds:
        if kind in WITHOUT_A_GROUP:
            write(folder, kind, rank)
    distributed.init_process_group("gloo")
    for kind in kinds:
        if kind not in WITHOUT_A_GROUP:
            write(folder, kind, rank)
    distributed.destroy_process_group()


if __name__ == "__main__":
    import os

    main(Path(sys.argv[1]), sys.argv[2:], int(os.environ["RANK"]))
