"""A program for test_sharded.py, run once for each rank by torchrun.

Usage: sharded_training.py FOLDER KIND...; writes what a rank recorded to FOLDER/KIND-RANK.json.
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

import trainvitals
from trainvitals.capture import Capture
from trainvitals.diagnosis.history import History
from trainvitals.wire import Stat, Stream

STEPS = 3
ROWS = 8
CLIP = 0.5


def network() -> nn.Module:
    """Return a model whose first dimensions, 7 and 3, cannot be divided evenly."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 3))


def batch(at: int) -> torch.Tensor:
    """Return the data of a step for all ranks together."""
    return torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(at))


def train(model, optimizer, *, rank=0, ranks=1, each=lambda: None) -> None:
    """Train on this rank's part of each batch; `each` is called before each optimizer step."""
    rows = ROWS // ranks
    for at in range(STEPS):
        optimizer.zero_grad()
        model(batch(at)[rank * rows : (rank + 1) * rows]).square().mean().backward()
        each()
        optimizer.step()


def adamw(model) -> torch.optim.Optimizer:
    """Return the optimizer of all kinds."""
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def wrapped(kind: str, ranks: int, model: nn.Module | None = None) -> nn.Module:
    """Return the model, distributed over the ranks."""
    model = model or network()
    if kind == "ddp":
        return DistributedDataParallel(model)
    if kind == "fsdp1":
        return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    if kind == "hsdp":
        mesh = init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh("cpu", (ranks,))
    if kind == "mixed":
        fully_shard(model[3], mesh=mesh)
        return model
    for layer in (model[0], model[3]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def entries(model: nn.Module) -> list[list[float]]:
    """Return the entries of each parameter in this process."""
    parts = [getattr(p, "_local_tensor", p) for p in model.parameters()]
    return [p.detach().flatten().tolist() for p in parts]


def table(history: History, stream: Stream, stat: Stat) -> list[list[float]]:
    """Return a statistic of a stream, shape (steps, places)."""
    return history.values(stream, stat).tolist()


def clip(model: nn.Module) -> float:
    """Clip the gradients, and return their norm of before."""
    norm = clip_grad_norm_(model.parameters(), CLIP)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def recorded(kind: str, rank: int, ranks: int) -> dict[str, object]:
    """Train without and with a monitor, and return what it recorded."""
    norms: list[float] = []

    def trained(model, optimizer):
        def each() -> None:
            if kind == "clipped":
                norms.append(clip(model))

        train(model, optimizer, rank=rank, ranks=ranks, each=each)
        return entries(model)

    model = wrapped(kind, ranks)
    plain = trained(model, adamw(model))
    model, history = network(), History()
    if kind == "late":  # a monitor that comes before the sharding and the optimizer
        capture = Capture(model, emit=history.add, every=1)
    model = wrapped(kind, ranks, model)
    optimizer = adamw(model)
    # A collective of ours on one rank alone would wait for ever.
    if kind == "alone" and rank:
        return {"equal": trained(model, optimizer) == plain}
    if kind != "late":
        capture = Capture(model, optimizer, emit=history.add, every=1)
    found = {"equal": trained(model, optimizer) == plain, "norms": norms[STEPS:]}
    capture.detach()
    places = history.places(Stream.WEIGHT)
    return found | {
        "facts": capture.facts,
        "not_watched": capture.not_watched,
        "errors": capture._guard._errors,
        "scalars": {n: history.scalar(n).values.tolist() for n in history.scalar_names()},
        "names": [p.name for p in places],
        "shapes": [list(p.shape) for p in places],
        "flags": [list(p.flags) for p in places],
        "weight": table(history, Stream.WEIGHT, Stat.L2),
        "mean": table(history, Stream.WEIGHT, Stat.MEAN),
        "gradient": table(history, Stream.GRADIENT, Stat.L2),
        "update": table(history, Stream.UPDATE, Stat.RMS),
        "outputs": [p.name for p in history.places(Stream.ACTIVATION)],
    }


def main() -> None:
    """Train each kind, and one run that has an id."""
    folder = Path(sys.argv[1])
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    distributed.init_process_group("gloo")
    for kind in sys.argv[2:]:
        found = recorded(kind, rank, ranks)
        (folder / f"{kind}-{rank}.json").write_text(json.dumps(found, default=str))
    with trainvitals.watch(network(), collector="off") as monitor:
        (folder / f"run-{rank}.json").write_text(json.dumps(monitor.run))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
