"""The kinds of record that a batch may contain.

A run begins with `RunStart`, announces each stream's rows and columns with a `Layout`, sends
`Frame`s that refer to it by version, reports dropped records with `Dropped`, and ends with
`RunEnd`. A changed set of tensors is a new layout version of that stream, counted from 0.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trainvitals.wire.vocabulary import Stat, Stream


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row of a stream: a parameter, a module or a scalar, and what is known about it."""

    name: str
    kind: str = ""
    """Parameters: weight | bias | norm_scale | norm_shift | embedding. Modules: the class name
    ("ReLU"). Scalars: empty."""
    shape: tuple[int, ...] = ()
    """Of a parameter. Its product is the count of entries. Of a shard: its own shape."""
    depth: int = -1
    """Position of the module (of the owning module, for parameters) in the order of the first
    forward, from 0; −1 while unknown."""
    module: str = ""
    """The owning module's name, for parameters; "" is the root."""
    module_kind: str = ""
    """The owning module's class name."""
    nonlinearity: str = ""
    """What the module is, or what its output goes into: relu | leaky_relu | gelu | silu | tanh |
    sigmoid | softmax | …; "" when none or unknown."""
    trainable: bool = True
    """requires_grad."""
    optimized: bool = True
    """In a parameter group of a watched optimizer."""
    aliases: tuple[str, ...] = ()
    """Other names of the same tensor (tied weights)."""
    flags: tuple[str, ...] = ()
    """Structural facts for the rules: output (its output is the input of the loss), before_norm (a
    norm layer follows), recurrent, attention; float16 (the output's type); shard (the entries of
    this rank, not the whole tensor)."""


class RunStart(msgspec.Struct, frozen=True, tag="start", omit_defaults=True):
    """Identity and metadata; the first record of every process of a run."""

    started_at: float
    """Seconds since the epoch (UTC), as everywhere on the wire."""
    name: str = ""
    config: dict[str, Any] = {}
    tags: tuple[str, ...] = ()
    host: str = ""
    pid: int = 0
    argv: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    """python, torch, trainvitals, …"""
    git_commit: str = ""
    total_steps: int | None = None
    facts: dict[str, str | float] = {}
    """What rules may need: optimizer ("AdamW"), loss ("CrossEntropyLoss"), device, parameters,
    world_size."""


class Layout(msgspec.Struct, frozen=True, tag="layout"):
    """The rows and columns of a stream's frames from now on."""

    stream: Stream
    version: int
    statistics: tuple[Stat, ...]
    places: tuple[Place, ...]


class Frame(msgspec.Struct, frozen=True, tag="frame", gc=False):
    """The statistics of one stream over one or more captured steps.

    `values` is float32, shape (steps, places, statistics) of the layout named; `steps` int64,
    strictly increasing; `times` float64 seconds since the epoch, one for each step.
    """

    stream: Stream
    layout: int
    steps: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    values: npt.NDArray[np.float32]


class Event(msgspec.Struct, frozen=True, tag="event", omit_defaults=True):
    """Something that happened at a step: lr_changed, checkpoint, resumed, loss_kind, …"""

    step: int
    time: float
    kind: str
    text: str = ""
    attributes: dict[str, str | float] = {}


class NotWatched(msgspec.Struct, frozen=True, tag="not_watched"):
    """What is not measured, and why: name → reason. A repeat replaces the earlier record."""

    reasons: dict[str, str]


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """Sent after some time without other records. Without heartbeats and `RunEnd`, contact is
    lost."""

    time: float
    step: int


class Dropped(msgspec.Struct, frozen=True, tag="dropped"):
    """An interval of records that were dropped, with their number."""

    first_step: int
    last_step: int
    stream: str
    """A `Stream`, or "record" for the other kinds."""
    reason: str
    """queue_full | spool_full | rejected | …"""
    records: int


class RunEnd(msgspec.Struct, frozen=True, tag="end", omit_defaults=True):
    """The last record of a process; the server determines from it whether records are missing."""

    time: float
    step: int
    state: str
    """finished | failed | stopped"""
    produced: int = 0
    """Total number of records passed to delivery, including this one."""
    dropped: int = 0
    error: str = ""
    """The exception's class and message, when failed."""
    last_seq: int = 0
    """Filled in by delivery: the seq of the batch that carries this record."""


Record = RunStart | Layout | Frame | Event | NotWatched | Heartbeat | Dropped | RunEnd


class Batch(msgspec.Struct, frozen=True):
    """Records of one process, in order. (source, seq) identifies it permanently."""

    run: str
    project: str
    source: bytes
    """16 random bytes per process start."""
    seq: int
    """Counted from 0 for each source, by 1 for each batch."""
    sent_at: float
    rank: int
    records: tuple[Record, ...]
    counted: int | None = None
    """Number of these records that `RunEnd.produced` counts: without repeats, heartbeats and
    reports of drops, and before frames are merged. None from a version that does not send it."""
