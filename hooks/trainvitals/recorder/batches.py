"""Observe which samples a DataLoader puts into each batch, without changing it.

Comes in: a DataLoader. Goes out: an iterable over the same batches, and the sample indices of each.
Promise:  the DataLoader is not changed; its sampler, its generator and its workers draw the same
          random numbers in the same order; the batches are the same objects in the same order.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import numpy as np
from torch.utils.data import DataLoader, IterableDataset

from trainvitals.recorder.ring import Indices

ITERATION: Final = "iteration"
"""The attribute in which loaders of Accelerate count epochs: it seeds their samplers."""

NO_LOADER: Final = "monitor.batches was given a {kind}, not a torch DataLoader"
ITERABLE: Final = "the DataLoader reads an IterableDataset: its samples have no indices"
OUT_OF_ORDER: Final = "the DataLoader delivers batches out of order (in_order=False)"
STARTED: Final = (
    "the DataLoader's persistent workers run already: call monitor.batches before the first epoch"
)
STATEFUL: Final = "the DataLoader keeps its position for checkpoints (StatefulDataLoader)"
NOT_CALLED: Final = "the DataLoader did not ask its batch sampler for indices"
NO_NUMBERS: Final = "the batch sampler yields {kind}, not integers"


def unobservable(loader: object) -> str:
    """Return why the sample indices of a loader cannot be observed; "" if they can."""
    if not isinstance(loader, DataLoader):
        return NO_LOADER.format(kind=type(loader).__name__)
    if isinstance(loader.dataset, IterableDataset):
        return ITERABLE
    if loader.num_workers and not getattr(loader, "in_order", True):
        return OUT_OF_ORDER
    base = loader.__dict__.get("base_dataloader", loader)
    # The checkpoint reads the position from the user's DataLoader, which is not the one that runs.
    if hasattr(type(base), "load_state_dict"):
        return STATEFUL
    return STARTED if base.__dict__.get("_iterator") is not None else ""


class ObservedBatches:
    """Iterates over the batches of a DataLoader; its attributes are those of the DataLoader.

    `started` is called before the data of a batch are read in this process, or, if workers read
    them, when the batch arrives. `delivered` is called with what the sampler gave for each batch
    that arrives; where each batch that is drawn arrives at once, `started` is called with it
    instead. `failed` is called with a reason if there are no indices.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        started: Callable[[object], None],
        delivered: Callable[[object], None],
        failed: Callable[[str], None],
    ) -> None:
        # A shallow copy with its own iterator: the user's DataLoader stays as it is, and so do its
        # copies and pickles. `__dict__`, because DataLoader refuses another batch sampler.
        self._loader = copy.copy(loader)
        self._started, self._delivered, self._failed = started, delivered, failed
        self._waiting: deque[object] = deque()
        name = "sampler" if loader.batch_sampler is None else "batch_sampler"
        self._in_process = loader.num_workers == 0
        base = loader.__dict__.get("base_dataloader")
        self._arrive_at_once = self._in_process and base is None and _is_plain(type(loader))
        drawn = started if self._arrive_at_once else self._drawn
        sampler = _ObservedSampler(getattr(loader, name), drawn)
        self._loader.__dict__[name] = sampler
        # Accelerate's DataLoaderShard reads from another DataLoader. Its dispatcher, which has a
        # slice_fn, reads the batches of all ranks: their indices are not those of this rank.
        if base is not None and "slice_fn" not in loader.__dict__:
            base = copy.copy(base)
            base.__dict__[name] = sampler
            self._loader.__dict__["base_dataloader"] = base
        self._original = weakref.ref(loader)
        self._iteration = loader.__dict__.get(ITERATION)

    def __iter__(self) -> Iterator[Any]:
        if self._arrive_at_once:
            return iter(self._loader)
        self._waiting.clear()
        self._follow_iteration()
        return _Batches(iter(self._loader), self._arrived, self._ended)

    def adopted(self, iterator: Any) -> Iterator[Any]:
        """Return an iterator that the user's DataLoader made and that is not advanced, observed.

        The DataLoader has no workers: they would have been given indices already.
        """
        self._waiting.clear()
        iterator._sampler_iter = _Indices(iterator._sampler_iter, self._drawn)
        return _Batches(iterator, self._arrived, self._ended)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._loader, name)

    def _follow_iteration(self) -> None:
        """Take the number of the epoch that `set_epoch` of the user's DataLoader has set."""
        original = self._original()
        wanted = None if original is None else original.__dict__.get(ITERATION)
        if wanted != self._iteration and wanted is not None:
            self._loader.__dict__[ITERATION] = self._iteration = wanted

    def _ended(self) -> None:
        original = self._original()
        if original is not None and ITERATION in original.__dict__:
            self._iteration = self._loader.__dict__[ITERATION]
            original.__dict__[ITERATION] = self._iteration

    def _drawn(self, indices: object) -> None:
        self._waiting.append(indices)
        if self._in_process:
            self._started(None)

    def _arrived(self) -> None:
        if not self._waiting:
            self._failed(NOT_CALLED)
            return
        if not self._in_process:
            self._started(None)
        self._delivered(self._waiting.popleft())


def _is_plain(kind: type[DataLoader[Any]]) -> bool:
    """Whether the class leaves the iteration as it is: a subclass may read batches ahead."""
    names = ("__iter__", "_get_iterator")
    return all(getattr(kind, name) is getattr(DataLoader, name) for name in names)


def indices_of(given: object) -> Indices:
    """Return the sample indices that a batch sampler gave for one batch, int64.

    Raises TypeError for a sampler that gives keys or other objects.
    """
    if type(given) is list:
        with contextlib.suppress(TypeError, OverflowError):
            return array("q", given)
    try:
        found = np.asarray(given)
    except Exception:  # noqa: BLE001 - indices can be any objects
        found = np.asarray(None)
    if found.dtype.kind not in "iu":
        raise TypeError(NO_NUMBERS.format(kind=type(given).__name__))
    return found.reshape(-1).astype(np.int64, copy=False)


class _ObservedSampler:
    """Stands in for a sampler: yields what it yields."""

    def __init__(self, sampler: Iterable[Any], drawn: Callable[[object], None]) -> None:
        self._sampler = sampler
        self._on_drawn = drawn

    def __iter__(self) -> Iterator[Any]:
        return _Indices(iter(self._sampler), self._on_drawn)

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._sampler, name)


class _Indices:
    """An iterator; no generator, which would start the sampler later than DataLoader does."""

    def __init__(self, inner: Iterator[Any], drawn: Callable[[object], None]) -> None:
        self._inner, self._on_drawn = inner, drawn

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        indices = next(self._inner)
        # A sampler may reuse its list.
        self._on_drawn(list(indices) if isinstance(indices, list) else indices)
        return indices


class _Batches:
    """The iterator over the batches; its attributes are those of DataLoader's iterator."""

    def __init__(
        self, inner: Iterator[Any], arrived: Callable[[], None], ended: Callable[[], None]
    ) -> None:
        self._inner, self._on_arrival, self._on_end = inner, arrived, ended

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            batch = next(self._inner)
        except StopIteration:
            self._on_end()
            raise
        self._on_arrival()
        return batch

    def __len__(self) -> int:
        return len(self._inner)  # type: ignore[arg-type]
