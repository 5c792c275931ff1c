"""R15: what a monitor changes in a training. Start at `changes`; an empty list is right."""

import copy
import pickle
import random
import signal
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import trainvitals

STEPS = 6


class Mlp(nn.Module):
    """Two layers with dropout, which draws from the global generator at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Linear(8, 16), nn.ReLU()
        self.drop, self.last = nn.Dropout(0.2), nn.Linear(16, 3)
        self.hidden: list[Callable[[], Tensor | None]] = []

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        self.hidden.append(weakref.ref(hidden))
        return self.last(self.drop(self.act(hidden)))


class Convolution(nn.Sequential):
    """Batch norm, whose buffers change in forward passes, and an activation in place."""

    def __init__(self) -> None:
        norm, act = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        super().__init__(nn.Conv2d(1, 4, 3), norm, act, nn.Flatten(), nn.Linear(4 * 6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(-1, 1, 2, 4).repeat(1, 1, 2, 2)[:, :, :, :5])


class Recurrent(nn.Module):
    """An LSTM, whose output is a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.view(-1, 4, 2))[0][:, -1])


class Transformer(nn.Module):
    """One layer of attention with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x[None])[0])


PROGRAMS: list[type[nn.Module]] = [Mlp, Convolution, Recurrent, Transformer]


def changes(program: type[nn.Module] = Mlp) -> list[str]:
    """Train without and with a monitor; return the names of what is not the same."""
    plain, watched = _trained(program, watch=False), _trained(program, watch=True)
    return [name for name in plain if not _same(plain[name], watched[name])]


def _trained(program: type[nn.Module], *, watch: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model = program()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses: list[float] = []
    with warnings.catch_warnings():  # puts the filters back, should they be changed
        monitor = trainvitals.watch(model, optimizer, collector="off", every=2) if watch else None
        copied = copy.deepcopy(model)
        pickled = _pickled(model)
        error = ""
        try:
            losses += _steps(model, optimizer, monitor)
        except Exception as raised:  # noqa: BLE001 - the callers check that there is none
            error = repr(raised)
        if monitor:
            monitor.close()
        settings = _settings()
    return {
        "exception": error,
        "losses": losses,
        "weights": [p.detach() for p in model.parameters()],
        "gradients": [p.grad for p in model.parameters()],
        "buffers": list(model.buffers()),
        "optimizer state": list(_tensors_of(optimizer.state_dict())),
        "keys of the state": list(model.state_dict()),
        "torch's random numbers": torch.get_rng_state(),
        "NumPy's random numbers": np.random.get_state()[1].tolist(),
        "Python's random numbers": random.getstate(),
        "hooks of a copy": _hooks(copied),
        "pickle": pickled,
        "hooks left": (_hooks(model), _hooks_of_optimizer(optimizer)),
        "outputs kept": [ref() is None for ref in getattr(model, "hidden", ())],
        "settings": settings,
    }


def _steps(model: nn.Module, optimizer: torch.optim.Optimizer, monitor: Any) -> Iterator[float]:
    for at in range(STEPS):
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(at))
        loss = nn.functional.cross_entropy(model(x), x[:, :3].argmax(1))
        if monitor:
            monitor.loss(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def _pickled(model: nn.Module) -> bool:
    """Return whether the model's pickle names what the model itself does not need."""
    text = pickle.dumps(model)
    return b"trainvitals" in text or b"nullcontext" in text


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def _hooks_of_optimizer(optimizer: Any) -> int:
    return len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


def _settings() -> tuple[Any, ...]:
    return (
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        list(warnings.filters),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        sys.excepthook,
    )


def _tensors_of(state: Any) -> Iterator[Any]:
    if isinstance(state, dict):
        for key in state:
            yield from _tensors_of(state[key])
    elif isinstance(state, list):
        for part in state:
            yield from _tensors_of(part)
    else:
        yield state


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
