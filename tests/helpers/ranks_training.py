"""A program for test_ranks_that_differ.py, run once for each rank by torchrun.

Usage: ranks_training.py FOLDER KIND...; writes the batches of a rank to FOLDER/KIND-RANK.bin.
"""

import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from trainvitals.capture import Capture
from trainvitals.wire import Batch, Record, RunStart, encode

STEPS = 24
CHANGED_AT = 12


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 4))


def wrapped(kind: str, rank: int, ranks: int) -> nn.Module:
    """Return the model of this rank."""
    if kind == "alone":  # independent trainings, without any reduction
        return network(rank)
    model = network(0)
    if kind == "fsdp1":
        return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    if kind in ("fsdp2", "fsdp2_clipped", "hsdp"):
        shape, names = ((ranks, 1), ("replicate", "shard")) if kind == "hsdp" else ((ranks,), None)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        for layer in (model[0], model[3]):
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    return DistributedDataParallel(model)


def records_of(kind: str, rank: int, ranks: int) -> list[Record]:
    """Train on this rank's own data, and return what it recorded."""
    model, records = wrapped(kind, rank, ranks), list[Record]()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    capture = Capture(model, optimizer, emit=records.append, every=1)
    records.append(RunStart(started_at=1_700_000_000.0, facts=capture.facts))
    draw = torch.Generator().manual_seed(rank)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 6, generator=draw)).square().mean()
        capture.loss(loss)
        loss.backward()
        if kind in ("clipped", "alone", "fsdp2_clipped"):
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        if kind == "unreduced" and step >= CHANGED_AT and rank:
            for p in model.parameters():
                p.grad.mul_(0.5)
        optimizer.step()
        if kind in ("changed", "clipped") and step >= CHANGED_AT and rank:
            with torch.no_grad():
                model.module[3].weight.mul_(1.01)
    capture.detach()
    return records


def main(folder: Path, kinds: list[str]) -> None:
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    for kind in kinds:
        records = tuple(records_of(kind, rank, ranks))
        source = f"{kind:>14}-{rank}".encode()[-16:]
        batch = Batch(kind, "p", source, 0, 1_700_000_000.0, rank, records, None)
        (folder / f"{kind}-{rank}.bin").write_bytes(encode(batch))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
