"""The file of a recording: a zip archive with a version, without pickled code.

`bundle.json` has the description; `arrays.npz` the statistics, sample indices, losses per sample
and random states; `state.pt`, if the state was recorded, the state dicts, readable by `torch.load`
with `weights_only=True`. docs/flight-recorder.md lists the arrays.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from trainvitals.api.schema import Finding
from trainvitals.random_states import OtherStates, TorchStates
from trainvitals.recorder.ring import Frozen, StepContext
from trainvitals.recorder.snapshots import Snapshot
from trainvitals.wire import Frame, Layout, Stream

VERSION: Final = 1
Arrays = dict[str, npt.NDArray[Any]]


class BundleError(ValueError):
    """A file that is not a bundle, or a bundle that this version cannot read."""


class Description(msgspec.Struct, kw_only=True):
    """What a bundle is about. `step` is the step to replay."""

    version: int = VERSION
    run: str
    project: str
    rank: int = 0
    name: str = ""
    written_at: float = 0.0
    """Seconds since the epoch (UTC)."""
    reason: str
    """non_finite: a loss or a gradient of `step`; finding: the first of `findings` opened."""
    step: int
    first_step: int = 0
    last_step: int = 0
    """The first and the last step with a context."""
    findings: list[Finding] = []
    config: dict[str, Any] = {}
    versions: dict[str, str] = {}
    git_commit: str = ""
    facts: dict[str, str | float] = {}
    layouts: list[Layout] = []
    """The rows and columns of the frames in `arrays.npz`."""
    problems: dict[str, str] = {}
    """What could not be recorded, and why."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read: description, statistics, contexts by step, and the state if any."""

    description: Description
    frames: list[Frame]
    contexts: dict[int, StepContext]
    snapshot: Snapshot | None = None
    path: Path = field(default_factory=Path)

    def scalar(self, name: str) -> dict[int, float]:
        """Return the values of a scalar by step; steps without it are left out."""
        columns = {
            layout.version: [place.name for place in layout.places].index(name)
            for layout in self.description.layouts
            if layout.stream is Stream.SCALAR and name in {place.name for place in layout.places}
        }
        return {
            int(step): float(value)
            for frame in self.frames
            if frame.stream is Stream.SCALAR and frame.layout in columns
            for step, value in zip(
                frame.steps, frame.values[:, columns[frame.layout], 0], strict=True
            )
            if not np.isnan(value)
        }


def write(path: Path, about: Description, frozen: Frozen, snapshot: Snapshot | None) -> None:
    """Write a bundle; the file has its name only when it is complete. Raises OSError."""
    used = {(frame.stream, frame.layout) for frame in frozen.frames}
    about.layouts = [layout for key, layout in frozen.layouts.items() if key in used]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("bundle.json", msgspec.json.encode(about))
            with archive.open("arrays.npz", "w", force_zip64=True) as member:
                np.savez(member, **_arrays_of(frozen))  # type: ignore[arg-type]
            if snapshot is not None:
                with archive.open("state.pt", "w", force_zip64=True) as member:
                    torch.save(snapshot._asdict(), member)
        partial.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def read(path: Path) -> Bundle:
    """Read a bundle.

    Raises BundleError for another kind of file or a newer version, OSError if it cannot be opened.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            head = msgspec.json.decode(archive.read("bundle.json"))
            if not isinstance(head, dict) or head.get("version") != VERSION:
                got = head.get("version") if isinstance(head, dict) else None
                raise BundleError(
                    f"{path} has bundle version {got}; this trainvitals reads {VERSION}. "
                    "Upgrade it: pip install -U trainvitals."
                )
            about = msgspec.convert(head, Description)
            with archive.open("arrays.npz") as member, np.load(member, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            snapshot = None
            if "state.pt" in archive.namelist():
                with archive.open("state.pt") as member:
                    snapshot = _snapshot(member)
        return Bundle(about, _frames(about, arrays), _contexts(arrays), snapshot, path)
    except (zipfile.BadZipFile, KeyError, msgspec.MsgspecError, EOFError) as error:
        raise BundleError(f"{path} is not a bundle of the flight recorder: {error}") from error


def _snapshot(member: IO[bytes]) -> Snapshot:
    return Snapshot(**torch.load(member, map_location="cpu", weights_only=True))


def _arrays_of(frozen: Frozen) -> Arrays:
    return {
        **_of_frames(frozen.frames),
        **_of_states(frozen.contexts),
        **_runs(
            "batch",
            ((c.step, np.asarray(batch, np.int64)) for c in frozen.contexts for batch in c.batches),
        ),
        **_runs(
            "loss",
            ((c.step, loss.float().cpu().numpy()) for c in frozen.contexts for loss in c.losses),
        ),
    }


def _of_frames(frames: Iterable[Frame]) -> Arrays:
    grouped: dict[tuple[str, int], list[Frame]] = {}
    for frame in frames:
        grouped.setdefault((str(frame.stream), frame.layout), []).append(frame)
    arrays: Arrays = {}
    for (stream, version), parts in grouped.items():
        for name in ("steps", "times", "values"):
            arrays[f"frames.{stream}.{version}.{name}"] = np.concatenate(
                [getattr(part, name) for part in parts]
            )
    return arrays


def _frames(about: Description, arrays: Mapping[str, npt.NDArray[Any]]) -> list[Frame]:
    found = []
    for layout in about.layouts:
        key = f"frames.{layout.stream}.{layout.version}"
        steps, times, values = (arrays[f"{key}.{name}"] for name in ("steps", "times", "values"))
        found.append(Frame(layout.stream, layout.version, steps, times, values))
    return found


def _of_states(contexts: list[StepContext]) -> Arrays:
    arrays: Arrays = {
        "steps": np.array([c.step for c in contexts], np.int64),
        "others_of_step": np.array([c.others_step for c in contexts], np.int64),
    }
    states = [(c.step, c.of_torch) for c in contexts if c.of_torch is not None]
    arrays["torch.steps"] = np.array([step for step, _ in states], np.int64)
    if states:
        arrays["torch.cpu"] = np.stack([state.cpu.numpy() for _, state in states])
        for device in states[-1][1].cuda:
            having = [(step, state) for step, state in states if device in state.cuda]
            arrays[f"torch.cuda.{device}.steps"] = np.array([s for s, _ in having], np.int64)
            arrays[f"torch.cuda.{device}"] = np.stack(
                [state.cuda[device].numpy() for _, state in having]
            )
    others = {c.others_step: c.others for c in contexts if c.others is not None}
    others = {step: o for step, o in others.items() if o.numpy[0] == "MT19937"}
    arrays["others.steps"] = np.array(list(others), np.int64)
    if others:
        found = others.values()
        arrays["python.version"] = np.array([o.python[0] for o in found], np.int64)
        arrays["python.state"] = np.array([o.python[1] for o in found], np.uint32)
        arrays["python.gauss"] = np.array(
            [np.nan if o.python[2] is None else o.python[2] for o in found]
        )
        arrays["numpy.keys"] = np.stack([o.numpy[1] for o in found])
        arrays["numpy.position"] = np.array([o.numpy[2:4] for o in found], np.int64)
        arrays["numpy.gauss"] = np.array([o.numpy[4] for o in found])
    return arrays


def _contexts(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[int, StepContext]:
    others = {int(step): _others(arrays, row) for row, step in enumerate(arrays["others.steps"])}
    contexts = {}
    for step, of in zip(arrays["steps"].tolist(), arrays["others_of_step"].tolist(), strict=True):
        contexts[step] = StepContext(step, others=others.get(of), others_step=of)
    cuda: dict[int, dict[int, torch.Tensor]] = {}
    for name in arrays:
        if name.startswith("torch.cuda.") and not name.endswith(".steps"):
            for row, step in enumerate(arrays[f"{name}.steps"].tolist()):
                state = torch.from_numpy(arrays[name][row].copy())
                cuda.setdefault(step, {})[int(name.rpartition(".")[2])] = state
    for row, step in enumerate(arrays["torch.steps"].tolist()):
        cpu = torch.from_numpy(arrays["torch.cpu"][row].copy())
        contexts[step].of_torch = TorchStates(cpu, cuda.get(step, {}))
    for step, indices in _parts("batch", arrays):
        contexts[step].batches.append(indices)
    for step, losses in _parts("loss", arrays):
        contexts[step].losses.append(torch.from_numpy(losses.copy()))
    return contexts


def _others(arrays: Mapping[str, npt.NDArray[Any]], row: int) -> OtherStates:
    gauss = float(arrays["python.gauss"][row])
    state = tuple(arrays["python.state"][row].tolist())
    python = (int(arrays["python.version"][row]), state, None if np.isnan(gauss) else gauss)
    position, has_gauss = arrays["numpy.position"][row].tolist()
    cached = float(arrays["numpy.gauss"][row])
    numpy = ("MT19937", arrays["numpy.keys"][row], position, has_gauss, cached)
    return OtherStates(python, numpy)


def _runs(name: str, parts: Iterable[tuple[int, npt.NDArray[Any]]]) -> Arrays:
    """Return parts of different lengths as three arrays: steps, sizes, and all values."""
    found = list(parts)
    return {
        f"{name}.steps": np.array([step for step, _ in found], np.int64),
        f"{name}.sizes": np.array([len(part) for _, part in found], np.int64),
        f"{name}.values": np.concatenate([part for _, part in found] or [np.empty(0)]),
    }


def _parts(
    name: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> Iterable[tuple[int, npt.NDArray[Any]]]:
    ends = np.cumsum(arrays[f"{name}.sizes"])
    pieces = np.split(arrays[f"{name}.values"], ends[:-1]) if len(ends) else []
    return zip(arrays[f"{name}.steps"].tolist(), pieces, strict=True)
