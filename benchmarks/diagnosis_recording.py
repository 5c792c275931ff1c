"""A recorded run of a deep narrow network, for the benchmark of the diagnosis to replay."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

import trainvitals
from models import narrow
from trainvitals.background_diagnosis import BackgroundDiagnosis
from trainvitals.wire import Frame, Layout, Record, RunEnd, Stream


@dataclass(frozen=True)
class Recording:
    """A recorded run under its newest layouts, which can be replayed without an end.

    `steps` has the frames of each captured step, one for each stream.
    """

    head: tuple[Record, ...]
    layouts: tuple[Layout, ...]
    steps: tuple[tuple[Frame, ...], ...]

    def at(self, step: int) -> tuple[Frame, ...]:
        """Return the frames of `step`: those of the recorded steps, one after another, again and
        again."""
        return tuple(moved(frame, step) for frame in self.steps[step % len(self.steps)])

    def scalars(self, first: int, count: int) -> Frame:
        """Return one frame with the scalars of `count` steps from `first` on."""
        parts = [
            frame
            for step in range(first, first + count)
            for frame in self.at(step)
            if frame.stream is Stream.SCALAR
        ]
        steps = np.concatenate([part.steps for part in parts])
        values = np.concatenate([part.values for part in parts])
        return Frame(Stream.SCALAR, parts[0].layout, steps, 0.1 * steps, values)


def moved(frame: Frame, step: int) -> Frame:
    """Return a frame of one step at another step."""
    steps = np.array([step], np.int64)
    return Frame(frame.stream, frame.layout, steps, 0.1 * steps, frame.values)


def record(tensors: int, steps: int) -> Recording:
    """Train a network of `tensors` parameters for `steps` steps under `watch`; keep the records."""
    kept: list[Record] = []

    class Keeping(BackgroundDiagnosis):
        def put(self, record: Record) -> None:
            kept.append(record)
            super().put(record)

    torch.manual_seed(0)
    model = network(tensors)
    teacher = torch.randn(16, 10)
    optimizer, loss = torch.optim.AdamW(model.parameters(), 1e-4), nn.CrossEntropyLoss()
    with patch("trainvitals.monitor.BackgroundDiagnosis", Keeping):
        monitor = trainvitals.watch(
            model, optimizer, loss=loss, collector="off", every=1, overhead=1.0
        )
        for _ in range(steps):
            inputs = torch.randn(64, 16)
            optimizer.zero_grad()
            loss(model(inputs), (inputs @ teacher).argmax(1)).backward()
            optimizer.step()
        monitor.close()
    return recording_of(kept)


def network(tensors: int) -> nn.Module:
    """Return the reference model `narrow`, with as many blocks as `tensors` parameters need."""
    first, block, *_, head = list(narrow().model.children())
    blocks = [copy.deepcopy(block) for _ in range(max(1, tensors // 2 - 2))]
    for module in nn.ModuleList(blocks).modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    return nn.Sequential(first, *blocks, head)


def recording_of(records: Iterable[Record]) -> Recording:
    """Return the records as a recording; steps from before the newest layouts are left out."""
    layouts: dict[Stream, Layout] = {}
    frames: dict[int, list[Frame]] = defaultdict(list)
    head: list[Record] = []
    for record in records:
        match record:
            case Layout():
                layouts[record.stream] = record
            case Frame():
                for row, step in enumerate(record.steps.tolist()):
                    one = slice(row, row + 1)
                    frames[step].append(
                        Frame(
                            record.stream,
                            record.layout,
                            record.steps[one],
                            record.times[one],
                            record.values[one],
                        )
                    )
            case RunEnd():
                pass
            case _:
                head.append(record)
    whole = [
        tuple(of_step)
        for _, of_step in sorted(frames.items())
        if {(f.stream, f.layout) for f in of_step}
        == {(x.stream, x.version) for x in layouts.values()}
    ]
    if not whole:
        raise RuntimeError("No step was captured in full: record more steps.")
    return Recording(tuple(head), tuple(layouts.values()), tuple(whole))
