"""What watching costs on a CUDA device. docs/benchmarks.md explains the columns.

    python benchmarks/cuda_overhead.py
    python benchmarks/cuda_overhead.py --seconds 60 --repeats 100

Without a CUDA device it prints this and exits. It was never run on one. (A file of the name cuda.py
would be imported by torch in place of NVIDIA's package.)
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

import trainvitals
from trainvitals.capture.backends import Group, groups_of
from trainvitals.capture.backends.members import Member
from trainvitals.capture.backends.plain import PlainGroup
from trainvitals.capture.step import Step
from trainvitals.capture.transfer import Transfer

HEADER = "| model | measured | device ms | CPU ms | one read ms |\n|---|---|---|---|---|"


@dataclass
class Workload:
    """A model, its optimizer, and one training step."""

    name: str
    model: nn.Module
    step: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer


class Gpt(nn.Module):
    """A GPT of the size of GPT-2 small: 124 M parameters, 148 tensors."""

    def __init__(self, words: int, width: int, layers: int, length: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Embedding(length, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, width // 64, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, src_mask=self.mask, is_causal=True)
        return functional.linear(self.norm(x), self.words.weight)


def gpt(device: str, *, words: int = 50257, width: int = 768, layers: int = 12) -> Workload:
    """GPT-2 small: 8 sequences of 1,024 tokens, bfloat16 autocast."""
    length = 1024 if device == "cuda" else 16
    model = Gpt(words, width, layers, length).to(device)
    tokens = torch.randint(words, (8, length), device=device)

    def step() -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            scores = model(tokens)
        return functional.cross_entropy(
            scores[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten()
        )

    return Workload("GPT-2 small", model, step, adamw(model, device))


def tensors_500(device: str, *, width: int = 671, layers: int = 500) -> Workload:
    """225 M parameters in 500 tensors: residual layers without biases, batch 512."""
    model = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers)).to(device)
    x = torch.randn(512, width, device=device)

    def step() -> Tensor:
        y = x
        for layer in model:
            y = y + 0.01 * torch.tanh(layer(y))
        return y.square().mean()

    return Workload("225 M in 500 tensors", model, step, adamw(model, device))


def adamw(model: nn.Module, device: str) -> torch.optim.Optimizer:
    """Return a fused AdamW."""
    return torch.optim.AdamW(model.parameters(), 1e-4, fused=device == "cuda")


def train(workload: Workload, monitor: trainvitals.Monitor | None = None) -> None:
    """Run one step."""
    loss = workload.step()
    if monitor is not None:
        monitor.loss(loss)
    workload.optimizer.zero_grad()
    loss.backward()
    workload.optimizer.step()


# Statistics alone.


def members_of(model: nn.Module) -> list[Member]:
    """Return the parameters as the backends use them; the drift is measured as in a run."""
    return [
        Member(p, row, p.detach().clone() if p.dim() == 1 else None)
        for row, p in enumerate(model.parameters())
    ]


def all_statistics(group: Group, transfer: Transfer, rows: int) -> None:
    """Measure gradients, weights and updates, as in a full step."""
    step = Step(rows)
    group.gradients(step, group, distinct=False)
    group.weights(step, frozen=False, keep=True, distinct=False)
    group.updates(step)
    transfer.submit(step, lambda _: None)


def norm_alone(group: Group, transfer: Transfer, rows: int) -> None:
    """Measure the norm of the gradients, as in a light step."""
    step = Step(rows)
    group.norm(step, group)
    transfer.submit(step, lambda _: None)


def times_of(call: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Return the medians of device time and CPU time of a call, in ms.

    The device is idle before each call, so that its time contains the gaps between launches.
    """
    for _ in range(3):
        call()
    device_ms, cpu_ms = [], []
    for _ in range(repeats):
        synchronize()
        started = time.perf_counter()
        with events() as elapsed_ms:
            call()
        cpu_ms.append((time.perf_counter() - started) * 1e3)
        device_ms.append(elapsed_ms())
    return statistics.median(device_ms), statistics.median(cpu_ms)


@contextmanager
def events() -> Iterator[Callable[[], float]]:
    """Measure the device time of a block; call the result after it."""
    if not torch.cuda.is_available():
        yield lambda: float("nan")
        return
    first, last = (torch.cuda.Event(enable_timing=True) for _ in "ab")
    first.record()
    yield lambda: (last.synchronize(), first.elapsed_time(last))[1]
    last.record()


def read_once(model: nn.Module) -> Callable[[], None]:
    """Return the floor: one sum over as many entries as weights and gradients have."""
    device = next(model.parameters()).device
    flat = torch.zeros(2 * sum(p.numel() for p in model.parameters()), device=device)

    def read() -> None:
        flat.sum()  # its value is not read: that would wait

    return read


def statistics_rows(workload: Workload, repeats: int) -> Iterator[str]:
    """Yield the rows of the first table."""
    train(workload)  # so that there are gradients
    members = members_of(workload.model)
    floor_ms, _ = times_of(read_once(workload.model), repeats)
    [group] = groups_of(members)
    plain = PlainGroup(members)
    for one in (group,) if isinstance(group, PlainGroup) else (group, plain):
        for name, call in (("all statistics", all_statistics), ("norm alone", norm_alone)):
            transfer = Transfer()
            device_ms, cpu_ms = times_of(partial(call, one, transfer, len(members)), repeats)
            transfer.poll(wait=True)
            yield (
                f"| {workload.name} | {name} ({type(one).__name__}) "
                f"| {device_ms:.3f} | {cpu_ms:.3f} | {floor_ms:.3f} |"
            )


# Share of a step.


def block_s(workload: Workload, seconds: float, *, watched: bool) -> tuple[float, int]:
    """Return the mean time of a step in a block of training, and the number of steps."""
    watch = (
        trainvitals.watch(workload.model, workload.optimizer, collector="off")
        if watched
        else nullcontext()
    )
    with watch as monitor:
        synchronize()
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            for _ in range(10):
                train(workload, monitor)
                count += 1
            synchronize()
        return (time.perf_counter() - started) / count, count


def share_row(workload: Workload, seconds: float) -> str:
    """Train plain, watched, plain, watched, plain; compare each watched block with its neighbours.

    The watched blocks start at step 0, so that they contain the first steps, measured in full.
    """
    for _ in range(5):
        train(workload)
    each = seconds / 5
    plain, watched, steps = [], [], 0
    for is_watched in (False, True, False, True, False):
        mean_s, steps = block_s(workload, each, watched=is_watched)
        (watched if is_watched else plain).append(mean_s)
    ratios = [2 * w / (plain[i] + plain[i + 1]) for i, w in enumerate(watched)]
    return (
        f"| {workload.name} | {statistics.mean(plain) * 1e3:.2f} "
        f"| {statistics.mean(ratios):.4f} ({', '.join(f'{r:.4f}' for r in ratios)}) | {steps} |"
    )


def synchronize() -> None:
    """Wait for the device, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description="What watching costs on a CUDA device.")
    parser.add_argument("--repeats", type=int, default=50, help="calls per figure")
    parser.add_argument("--seconds", type=float, default=60.0, help="training per model")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device here: not measured")
        return
    os.environ["TRAINVITALS_REPORT"] = "off"
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n\n{HEADER}", flush=True)
    shares = []
    for build in (gpt, tensors_500):
        workload = build("cuda")
        for row in statistics_rows(workload, args.repeats):
            print(row, flush=True)
        shares.append(share_row(workload, args.seconds))
        del workload
        torch.cuda.empty_cache()
    print("\n| model | step ms | time ratio, default | steps of a block |\n|---|---|---|---|")
    print("\n".join(shares))


if __name__ == "__main__":
    main()
