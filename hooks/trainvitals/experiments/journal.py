"""Finished trainings in a file of JSON lines, so that an experiment can be continued.

The first line describes the experiment; each other line is an `Outcome`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from trainvitals.experiments.data import Data
from trainvitals.experiments.trial import Job, Outcome

FORMAT = 2


class Journal:
    """The file of one experiment; it is created with the first outcome."""

    def __init__(self, path: str | Path, job: Job) -> None:
        """Raises ValueError if the file belongs to another experiment or is not a journal."""
        self.path = Path(path)
        self._description = description_of(job)
        self.outcomes: dict[tuple[str, int], Outcome] = {}
        if self.path.exists() and self.path.stat().st_size:
            self._read()

    def add(self, outcome: Outcome) -> None:
        """Append an outcome; it is on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            if file.tell() == 0:
                file.write(msgspec.json.encode(self._description).decode() + "\n")
            file.write(msgspec.json.encode(outcome).decode() + "\n")

    def _read(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        *lines, rest = text.split("\n")
        try:
            found = msgspec.json.decode(lines[0] if lines else rest, type=dict[str, Any])
            outcomes = [msgspec.json.decode(line, type=Outcome) for line in lines[1:]]
        except msgspec.DecodeError as error:
            raise ValueError(
                f"{self.path} is no file of an experiment ({error}); give resume= another path."
            ) from error
        for name, value in self._description.items():
            if found.get(name) != value:
                raise ValueError(
                    f"{self.path} belongs to another experiment: {name} is {found.get(name)!r} "
                    f"there and {value!r} here. Give resume= another path, or delete the file."
                )
        self.outcomes = {(o.choice, o.seed): o for o in outcomes}
        if rest:  # a line that was cut off when the process ended
            self.path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def description_of(job: Job) -> dict[str, Any]:
    """Return what must be the same for outcomes to be comparable."""
    return {
        "format": FORMAT,
        "steps": job.steps,
        "batch_size": job.batch_size,
        "learning_rate": job.learning_rate,
        "optimizer": _name(job.optimizer),
        "loss": repr(job.loss),
        "metric": job.metric.name,
        "robustness": job.robustness,
        "factory": _name(job.factory),
        "model": hashlib.sha256(repr(job.factory()).encode()).hexdigest()[:16],
        "choices": {c.name: _choice(c.initialiser, c.loss, c.learning_rate) for c in job.choices},
        "data": _digest(job.data),
        "held_out": None if job.held_out is None else _digest(job.held_out),
    }


def _choice(initialiser: object, loss: nn.Module | None, learning_rate: float | None) -> str:
    if initialiser is not None:
        return initialiser if isinstance(initialiser, str) else _name(initialiser)
    return repr(loss if loss is not None else learning_rate)


def _name(value: object) -> str:
    """Return a name without addresses, which differ between processes."""
    inner = getattr(value, "func", value)  # functools.partial
    return str(getattr(inner, "__qualname__", type(inner).__name__))


def _digest(data: Data) -> str:
    if callable(data):
        return _name(data)
    digest = hashlib.sha256()
    for tensor in _tensors(data):
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(np.asarray(values.view(torch.uint8) if len(values) else values).tobytes())
    return digest.hexdigest()[:16]


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value
    return [t for part in parts for t in _tensors(part)]  # type: ignore[attr-defined]
