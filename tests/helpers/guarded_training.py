"""A program for test_guard_ranks.py, run once for each rank by torchrun.

Usage: guarded_training.py FOLDER; writes case → what happened on this rank to FOLDER/RANK.json.
"""

import contextlib
import copy
import itertools
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

import trainvitals

STEPS = 4
BAD_STEP = 2
BAD_RANK = 1
"""The rank whose loss or gradient is not finite before the reduction."""
MAX_NORM = 1.0
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, foreach=False),
    "foreach": lambda p: torch.optim.AdamW(p, 1e-2, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, 1e-2, fused=True),
    "zero": lambda p: ZeroRedundancyOptimizer(p, torch.optim.AdamW, lr=1e-2),
}
PRECISIONS = ("float32", "bfloat16", "mixed")
SCALED = "scaled"
"""Parameters in float16 in the forward pass, and a GradScaler."""
SCALE = 1024.0
MESHES = {"fsdp": (2,), "mixed": (2,), "hsdp21": (2, 1), "hsdp12": (1, 2)}
"""Ranks that hold replicas of a shard, if any, and ranks between which parameters are sharded."""


class Case(NamedTuple):
    """`fault` is where the gradient of one rank stops to be finite: at its loss, at one output unit
    of the first layer, whose row is in the shard of rank 0, or, late, in this rank's own shard
    after the gradients were reduced and unscaled; "" for a healthy training."""

    kind: str
    optimizer: str
    precision: str
    micro_batches: int
    fault: str
    norm: str
    guard: str

    @property
    def name(self) -> str:
        """The key in the file."""
        return " ".join(map(str, self))


def cases() -> list[Case]:
    """Return all cases, in an order that is the same on each rank.

    For each kind, each two values of optimizer, precision, micro-batches and fault meet in a case.
    """
    found = []
    faults = ("loss nan", "unit nan", "unit inf", "")
    for kind, norm in (("ddp", ""), ("fsdp", "clip")):
        for o, optimizer in enumerate(list(OPTIMIZERS)[:4]):
            for f, fault in enumerate(faults):
                precision, micro_batches = PRECISIONS[(o + f) % 3], (1, 3)[(o + f) % 2]
                found.append(Case(kind, optimizer, precision, micro_batches, fault, norm, "veto"))
    for fault in ("unit nan", "unit inf", ""):
        plain = "float32", 1, fault
        found += [
            Case("ddp", "zero", *plain, "", "veto"),
            Case("ddp", "adamw", *plain, "clip", "veto"),
            Case("ddp", "adamw", *plain, "", "stop"),
            Case("fsdp", "adamw", *plain, "total", "veto"),
            Case("fsdp", "adamw", *plain, "clip", "stop"),
            Case("fsdp", "adamw", *plain, "clip", "report"),
            Case("fsdp", "adamw", *plain, "unclipped", "veto"),
            Case("fsdp", "adamw", *plain, "", "veto"),
            Case("fsdp", "adamw", *plain, "", "stop"),
            Case("fsdp1", "adamw", *plain, "", "veto"),
            Case("mixed", "adamw", *plain, "", "veto"),
        ]
    return found + cases_of_meshes() + cases_of_scaling()


def cases_of_meshes() -> list[Case]:
    """Return the cases of FSDP2 with replicas (HSDP)."""
    faults = ("loss nan", "unit nan", "unit inf", "")
    clipped = itertools.product(("hsdp21", "hsdp12"), ("adamw", "fused"), PRECISIONS, faults)
    found = [
        Case(kind, optimizer, precision, 1 + 2 * ((n + n // 4) % 2), fault, "clip", "veto")
        for n, (kind, optimizer, precision, fault) in enumerate(clipped)
    ]
    without_norm = itertools.product(("hsdp21", "hsdp12"), ("unit nan", ""))
    return found + [
        Case(kind, "adamw", "float32", 1, fault, "", "veto") for kind, fault in without_norm
    ]


def cases_of_scaling() -> list[Case]:
    """Return the cases with a GradScaler, which skips a step itself if a gradient is not finite."""
    kinds = ("ddp", "fsdp", "hsdp21", "hsdp12")
    faults = ("unit nan", "unit inf", "")
    found = [
        Case(
            kind,
            ("adamw", "fused")[(n + f) % 2],
            SCALED,
            (1, 3)[(n + f // 2) % 2],
            fault,
            norm,
            "veto",
        )
        for kind in kinds
        for n, norm in enumerate(("clip", ""))
        for f, fault in enumerate(faults)
    ]
    late = itertools.product(("fsdp", "hsdp12"), ("adamw", "fused"))
    return found + [
        Case(kind, optimizer, SCALED, 1, "late nan", "clip", "veto") for kind, optimizer in late
    ]


class Training:
    """One training of a case on this rank; `monitor` is None for an unwatched one."""

    def __init__(self, case: Case, rank: int, *, every: int, is_watched: bool = True) -> None:
        self.case, self.rank = case, rank
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
        if case.precision == "bfloat16":
            network.to(torch.bfloat16)
        network[0].register_forward_hook(self._spoil_unit)
        self.model = distributed_model(case, network)
        self.optimizer = OPTIMIZERS[case.optimizer](self.model.parameters())
        is_scaled = case.precision == SCALED
        self.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE) if is_scaled else None
        self.monitor = None
        if is_watched:
            self.monitor = trainvitals.watch(
                self.model, self.optimizer, collector="off", guard=case.guard, every=every
            )
        self.at = 0

    def run(self) -> "Training":
        """Train all steps, or up to the exception that stops the training."""
        self.stopped_at = None
        with contextlib.suppress(trainvitals.StopTraining):
            # A rank that goes on alone would wait for the others.
            for at in range(BAD_STEP + 1 if self.case.guard == "stop" else STEPS):
                self.at = at
                self.optimizer.zero_grad()
                for micro_batch in range(self.case.micro_batches):
                    with self._without_reduction(micro_batch < self.case.micro_batches - 1):
                        self._scaled(self._loss(micro_batch)).backward()
                self._norm()
                before = self._state()
                self.stopped_at = self.at  # stays if step() raises
                try:
                    self._step()
                finally:
                    if self.at == BAD_STEP:
                        self.moved = str(before) != str(self._state())
                self.stopped_at = None
        if self.monitor is not None:
            self.monitor.close()
        return self

    def found(self) -> dict[str, object]:
        """Return what happened on this rank."""
        monitor = self.monitor
        values = [v for part in self._state() for v in part if torch.is_tensor(v)]
        events = monitor._diagnosis.history.events
        return {
            "moved": self.moved,
            "stopped_at": self.stopped_at,
            "is_finite": all(bool(v.isfinite().all()) for v in values),
            "weights": weights(self.model),
            "scale": 0 if self.scaler is None else self.scaler.get_scale(),
            "vetoed": monitor._capture.updates.vetoed,
            "events": [[e.step, e.text] for e in events if e.kind == "nonfinite_update"],
            "safe": monitor.safe_to_save(),
            "healthy": monitor.last_healthy_step,
            "reason": monitor._capture.not_watched.get("guard", ""),
            "errors": str(dict(monitor._capture._guard._errors)),
        }

    def _is_bad(self, micro_batch: int) -> bool:
        last = micro_batch == self.case.micro_batches - 1
        return self.at == BAD_STEP and self.rank == BAD_RANK and last and bool(self.case.fault)

    def _loss(self, micro_batch: int) -> torch.Tensor:
        seed = 100 * self.at + 10 * micro_batch + self.rank
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
        place, _, self.value = self.case.fault.partition(" ")
        self.spoil = self._is_bad(micro_batch) and place == "unit"
        lower = torch.float16 if self.case.precision == SCALED else torch.bfloat16
        with torch.autocast("cpu", lower, enabled=self._is_autocast()):
            out = self.model(x.to(torch.bfloat16) if self.case.precision == "bfloat16" else x)
        loss = out.float().square().mean()
        if self._is_bad(micro_batch) and place == "loss":
            loss = loss * float(self.value)
        return loss if self.monitor is None else self.monitor.loss(loss)

    def _is_autocast(self) -> bool:
        return self.case.precision in ("mixed", SCALED) and self.case.kind == "ddp"

    def _scaled(self, loss: torch.Tensor) -> torch.Tensor:
        return loss if self.scaler is None else self.scaler.scale(loss)

    def _step(self) -> None:
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def _spoil_unit(self, _module, _args, output):
        # The gradient of the first sample and unit: row 0 of the first layer's gradient alone.
        if not (self.monitor is not None and self.spoil):
            return output
        bad = torch.zeros(output.shape, dtype=torch.bool)
        bad[0, 0] = True
        output.register_hook(lambda gradient: gradient.masked_fill(bad, float(self.value)))
        return output

    def _without_reduction(self, skip: bool):
        if self.case.kind == "ddp" and skip:
            return self.model.no_sync()
        if self.case.kind in MESHES and self.case.kind != "mixed":
            self.model.set_requires_gradient_sync(not skip)
        return contextlib.nullcontext()

    def _norm(self) -> None:
        parameters = list(self.model.parameters())
        if self.scaler is not None and self.case.norm:
            self.scaler.unscale_(self.optimizer)
        if self._is_bad(self.case.micro_batches - 1) and self.case.fault == "late nan":
            with torch.no_grad():
                parameters[0].grad._local_tensor[0, 0] = float("nan")
        if self.case.norm == "clip":
            clip_grad_norm_(parameters, MAX_NORM)
        elif self.case.norm == "unclipped":
            clip_grad_norm_(parameters, float("inf"))
        elif self.case.norm == "total":
            torch.nn.utils.get_total_norm([p.grad for p in parameters])

    def _state(self):
        local = [getattr(p, "_local_tensor", p).detach().clone() for p in self.model.parameters()]
        optimizer = getattr(self.optimizer, "optim", self.optimizer)
        kept = [v for state in optimizer.state.values() for v in state.values()]
        return local, [getattr(v, "_local_tensor", v) for v in copy.deepcopy(kept)]


def distributed_model(case: Case, network: nn.Module) -> nn.Module:
    """Return the model, replicated or sharded over the ranks."""
    if case.kind == "ddp":
        return DistributedDataParallel(network)
    if case.kind == "fsdp1":
        return FullyShardedDataParallel(
            network, use_orig_params=True, device_id=torch.device("cpu")
        )
    shape = MESHES[case.kind]
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
    lower = {"mixed": torch.bfloat16, SCALED: torch.float16}.get(case.precision)
    policy = MixedPrecisionPolicy()
    if lower is not None:
        policy = MixedPrecisionPolicy(param_dtype=lower, reduce_dtype=torch.float32)
    if case.kind == "mixed":  # only one layer is sharded
        fully_shard(network[0], mesh=mesh, mp_policy=policy)
        return network
    for layer in (network[0], network[2]):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    return fully_shard(network, mesh=mesh, mp_policy=policy)


def weights(model: nn.Module) -> list[list[float]]:
    """Return the entries of each parameter in this process."""
    parts = [getattr(p, "_local_tensor", p) for p in model.parameters()]
    return [p.detach().flatten().tolist() for p in parts]


def result(case: Case, rank: int, number: int) -> dict[str, object]:
    """Train a case; a healthy one without a monitor too, to compare the weights."""
    every = 1 if number // 2 % 2 else 10**6
    training = Training(case, rank, every=every).run()
    found = training.found()
    if not case.fault:
        plain = Training(case, rank, every=every, is_watched=False).run()
        found["equal"] = weights(plain.model) == found["weights"]
    return found


def main() -> None:
    """Train each case."""
    rank = int(os.environ["RANK"])
    distributed.init_process_group("gloo")
    found = {case.name: result(case, rank, n) for n, case in enumerate(cases())}
    (Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
