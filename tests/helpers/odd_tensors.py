"""R16: odd tensors as parameters and as outputs. Start at `problems`; an empty list is right."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from trainvitals.capture import Capture
from trainvitals.diagnosis.history import History
from trainvitals.wire import Stat, Stream

HALF = torch.full((300,), 1000.0, dtype=torch.float16)  # its sum of squares overflows float16

PARAMETERS: dict[str, Callable[[], Tensor]] = {
    "empty": lambda: torch.ones(3, 0),
    "scalar": lambda: torch.tensor(2.0),
    "meta": lambda: torch.ones(3, device="meta"),
    "complex": lambda: torch.ones(3, dtype=torch.complex64),
    "integer": lambda: torch.ones(3, dtype=torch.int32),
    "boolean": lambda: torch.ones(3, dtype=torch.bool),
    "nan": lambda: torch.tensor([1.0, float("nan")]),
    "infinite": lambda: torch.tensor([float("inf"), -float("inf")]),
    "subnormal": lambda: torch.tensor([1e-40, 1.0]),
    "float16": HALF.clone,
    "bfloat16": lambda: torch.ones(3, dtype=torch.bfloat16),
    "strided": lambda: torch.arange(12.0).view(3, 4)[:, ::2],
    "expanded": lambda: torch.ones(1, 4).expand(3, 4),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "lazy": lambda: nn.parameter.UninitializedParameter(),
}
OUTPUTS: dict[str, Callable[[Tensor], object]] = {
    "empty": lambda x: x[:0],
    "scalar": lambda x: x.sum(),
    "meta": lambda x: torch.ones(3, device="meta"),
    "fake": lambda x: _fake(),
    "complex": lambda x: x.to(torch.complex64),
    "integer": lambda x: x.int(),
    "boolean": lambda x: x > 0,
    "nan": lambda x: x * float("nan"),
    "infinite": lambda x: x / 0,
    "subnormal": lambda x: x * 1e-40,
    "float16": lambda x: x.half() * 60000,
    "float8": lambda x: x.detach().to(torch.float8_e4m3fn),
    "strided": lambda x: x[:, ::2],
    "transposed": lambda x: x.T,
    "expanded": lambda x: x[:, :1].expand(-1, 9),
    "sparse": lambda x: x.to_sparse(),
    "csr": lambda x: x.detach().to_sparse_csr(),
    "nested": lambda x: torch.nested.nested_tensor([x[0], x[1, :2]]),
    "quantised": lambda x: torch.quantize_per_tensor(x.detach(), 0.1, 0, torch.qint8),
    "tuple": lambda x: (x, None),
    "dictionary": lambda x: {"x": x},
    "none": lambda x: None,
    "no tensor": lambda x: "text",
}
UNMEASURED = ("meta", "fake", "complex", "sparse", "csr", "nested", "float8")
"""Outputs of numbers that are not measured, and named with the reason."""


def _fake() -> Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(3)


class Odd(nn.Module):
    """Returns the odd form of its input."""

    def __init__(self, form: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> object:
        return self.form(x)


class Net(nn.Module):
    """A trained layer; beside it, modules with odd outputs and odd parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Linear(4, 6)
        self.odd = nn.ModuleDict({n.replace(" ", "_"): Odd(OUTPUTS[n]) for n in OUTPUTS})
        for name, make in PARAMETERS.items():
            value = make()
            if not isinstance(value, nn.Parameter):
                value = nn.Parameter(value, requires_grad=name not in ("integer", "boolean"))
            self.register_parameter(f"p_{name}", value)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.main(x)
        for module in self.odd.values():
            module(hidden)
        return hidden


def problems(steps: int = 3) -> list[str]:
    """Train beside every odd tensor, every step in full; return what went wrong."""
    torch.manual_seed(0)
    model = Net()
    history = History()
    optimizer = torch.optim.SGD(model.main.parameters(), lr=0.1)
    outputs: list[Tensor] = []
    model.odd["strided"].form = lambda x: outputs.append(x.detach()[:, ::2]) or x[:, ::2]
    found = []
    try:
        capture = Capture(model, optimizer, emit=history.add, every=1)
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(5, 4)).square().sum().backward()
            optimizer.step()
        capture.detach()
    except Exception as error:  # noqa: BLE001 - the callers check that there is none
        return [f"exception: {error!r}"]
    found += [f"counted: {probe} {kind}" for probe, kind in capture._guard._errors]
    if capture.step != steps - 1:
        found.append("a step is missing")
    named = {*capture.watched, *capture.not_watched}
    found += [f"unnamed: {n}" for n, _ in model.named_parameters() if n not in named]
    for name in UNMEASURED:
        if f"output of odd.{name}" not in named:
            found.append(f"unnamed: the output of odd.{name}")
    found += _wrong_numbers(history, outputs[-1])
    return found


def _wrong_numbers(history: History, strided: Tensor) -> list[str]:
    found = []
    places = [p.name for p in history.places(Stream.WEIGHT)]
    if "p_float16" in places:
        l2 = history.values(Stream.WEIGHT, Stat.L2)[-1][places.index("p_float16")]
        if not np.isclose(l2, HALF.double().norm().item(), rtol=1e-5):
            found.append(f"number: the norm of float16 is {l2}")
    means = history.series(Stream.ACTIVATION, Stat.MEAN, "odd.strided").values
    if not len(means) or not np.isclose(means[-1], strided.double().mean().item(), rtol=1e-5):
        found.append(f"number: the mean of a strided output is {means[-1:]}")
    return found
