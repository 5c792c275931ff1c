"""Every statistic equals a float64 NumPy reference, for four kinds of network.

The reference sees the same tensors through torch's own hooks, and shares no code with capture.
"""

import numpy as np
import pytest
import torch
from torch import nn

from trainvitals.capture import Capture
from trainvitals.diagnosis.history import History
from trainvitals.wire import Stat, Stream

STEPS = 3


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 10, batch_first=True)
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(11, 16)
        self.block = nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0.0, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(16, 3)

    def forward(self, ids):
        return self.head(self.block(self.tokens(ids)).mean(1))


def mlp():
    return nn.Sequential(
        nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)
    )


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(6 * 36, 3),
    )


NETWORKS = {
    "mlp": (mlp, lambda g: torch.randn(16, 6, generator=g)),
    "cnn": (cnn, lambda g: torch.randn(8, 1, 8, 8, generator=g)),
    "lstm": (Sequence, lambda g: torch.randn(8, 5, 6, generator=g)),
    "transformer": (Transformer, lambda g: torch.randint(11, (8, 7), generator=g)),
}


class Reference:
    """Tensors of each step as float64, taken by hand."""

    def __init__(self, model, optimizer):
        self.outputs, self.weights, self.gradients, self.updates = {}, {}, {}, {}
        self.model, self.optimizer = model, optimizer
        for name, module in model.named_modules():
            module.register_forward_hook(lambda _m, _a, out, name=name: self._saw(name, out))

    def _saw(self, name, out):
        out = out[0] if isinstance(out, tuple) else out
        self.outputs[name] = out.detach().double().numpy().copy()

    def step(self):
        named = dict(self.model.named_parameters())
        self.weights = {n: p.detach().double().numpy().copy() for n, p in named.items()}
        self.gradients = {n: p.grad.double().numpy().copy() for n, p in named.items()}
        self.optimizer.step()
        self.updates = {n: p.detach().double().numpy() - self.weights[n] for n, p in named.items()}


@pytest.fixture(params=NETWORKS)
def run(request):
    build, data = NETWORKS[request.param]
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(4)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    # The reference's hooks come first: what it sees is what the modules return.
    reference = Reference(model, optimizer)
    history = History()
    capture = Capture(model, optimizer, emit=history.add)
    first = {n: p.detach().double().numpy().copy() for n, p in model.named_parameters()}
    losses = []
    for _ in range(STEPS):
        x = data(generator)
        y = torch.randint(3, (len(x),), generator=generator)
        loss = nn.functional.cross_entropy(model(x), y)
        losses.append(float(loss.detach().double()))
        capture.loss(loss)
        optimizer.zero_grad()
        loss.backward()
        reference.step()
    capture.detach()
    return reference, history, first, losses


def newest(history, stream, statistic):
    values = history.values(stream, statistic)[-1]
    return {p.name: v for p, v in zip(history.places(stream), values, strict=True)}


def expect(history, stream, statistic, wanted, rel=2e-5, abs_=1e-9):
    got = newest(history, stream, statistic)
    assert set(wanted) <= set(got)
    for name, value in wanted.items():
        assert got[name] == pytest.approx(value, rel=rel, abs=abs_), (stream, statistic, name)


ENTRIES = {
    Stat.MEAN: np.mean,
    Stat.STD: np.std,
    Stat.MIN: np.min,
    Stat.MAX: np.max,
    Stat.ABS_MEAN: lambda x: np.abs(x).mean(),
    Stat.L2: lambda x: np.sqrt((x**2).sum()),
    Stat.ZERO_SHARE: lambda x: (x == 0).mean(),
    Stat.NONFINITE: lambda x: (~np.isfinite(x)).sum(),
}


@pytest.mark.parametrize("statistic", ENTRIES)
def test_weights_and_gradients(run, statistic):
    reference, history, _, _ = run
    of = ENTRIES[statistic]
    for stream, tensors in (
        (Stream.WEIGHT, reference.weights),
        (Stream.GRADIENT, reference.gradients),
    ):
        expect(history, stream, statistic, {n: of(x) for n, x in tensors.items()}, abs_=1e-8)


@pytest.mark.parametrize(
    ("statistic", "share"),
    [(Stat.MAGNITUDE_P05, 0.05), (Stat.MAGNITUDE_P50, 0.5), (Stat.MAGNITUDE_P95, 0.95)],
)
def test_percentiles_of_magnitudes(run, statistic, share):
    reference, history, _, _ = run
    for stream, tensors in (
        (Stream.WEIGHT, reference.weights),
        (Stream.GRADIENT, reference.gradients),
    ):
        wanted = {
            n: np.quantile(np.abs(x[x != 0]), share, method="inverted_cdf")
            for n, x in tensors.items()
            if (x != 0).any()
        }
        expect(history, stream, statistic, wanted, rel=1 / 16)  # the width of a bin


def test_every_parameter_is_a_place_of_the_three_streams(run):
    reference, history, _, _ = run
    for stream in (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE):
        assert {p.name for p in history.places(stream)} == set(reference.weights)


def test_updates(run):
    reference, history, _, _ = run
    rms = {n: np.sqrt((u**2).mean()) for n, u in reference.updates.items()}
    before = {n: np.sqrt((w**2).mean()) for n, w in reference.weights.items()}
    expect(history, Stream.UPDATE, Stat.RMS, rms, rel=1e-4)
    expect(
        history,
        Stream.UPDATE,
        Stat.MEAN,
        {n: u.mean() for n, u in reference.updates.items()},
        1e-3,
        1e-8,
    )
    expect(
        history, Stream.UPDATE, Stat.RATIO, {n: rms[n] / before[n] for n in rms if before[n]}, 1e-4
    )


def test_the_drift_of_biases_since_the_start(run):
    reference, history, first, _ = run
    drift = {n: w - first[n] for n, w in reference.weights.items() if w.ndim == 1}
    expect(
        history,
        Stream.WEIGHT,
        Stat.DRIFT_RMS,
        {n: np.sqrt((d**2).mean()) for n, d in drift.items()},
        rel=1e-4,
    )
    expect(
        history, Stream.WEIGHT, Stat.DRIFT_MEAN, {n: d.mean() for n, d in drift.items()}, 1e-3, 1e-7
    )


def samples_by_units(x):
    """Images: samples × (channels·positions). Else every vector is a sample."""
    return x.reshape(len(x), -1) if x.ndim == 4 else x.reshape(-1, x.shape[-1])


def test_activations(run):
    reference, history, _, _ = run
    places = {p.name: p for p in history.places(Stream.ACTIVATION)}
    assert places
    of = {n: samples_by_units(reference.outputs[n]) for n in places}
    expect(history, Stream.ACTIVATION, Stat.MEAN, {n: x.mean() for n, x in of.items()}, 1e-4, 1e-6)
    expect(history, Stream.ACTIVATION, Stat.STD, {n: x.std() for n, x in of.items()}, 1e-4)
    expect(history, Stream.ACTIVATION, Stat.MIN, {n: x.min() for n, x in of.items()}, 1e-5)
    expect(history, Stream.ACTIVATION, Stat.MAX, {n: x.max() for n, x in of.items()}, 1e-5)
    expect(history, Stream.ACTIVATION, Stat.NONFINITE, dict.fromkeys(of, 0))
    zeros = {n: (x == 0).mean() for n, x in of.items()}
    expect(history, Stream.ACTIVATION, Stat.ZERO_SHARE, zeros)


def test_signal_across_samples_and_mean_over_units(run):
    reference, history, _, _ = run
    of = {
        p.name: samples_by_units(reference.outputs[p.name])
        for p in history.places(Stream.ACTIVATION)
    }
    s = {n: np.sqrt(x.var(axis=0).mean()) for n, x in of.items()}
    m = {n: x.mean(axis=0).std() for n, x in of.items()}
    kurtosis = {n: ((x - x.mean()) ** 4).mean() / x.var() ** 2 - 3 for n, x in of.items()}
    expect(history, Stream.ACTIVATION, Stat.SAMPLE_STD, s, 1e-4)
    expect(history, Stream.ACTIVATION, Stat.UNIT_MEAN_STD, m, 1e-4, 1e-6)
    expect(history, Stream.ACTIVATION, Stat.KURTOSIS, kurtosis, 1e-3, 1e-3)


def test_inactive_and_saturated_units(run):
    reference, history, _, _ = run
    for place in history.places(Stream.ACTIVATION):
        x = reference.outputs[place.name]
        if place.kind == "ReLU":
            # A unit of an image is a channel: it is inactive when no position of any sample fires.
            fired = (x > 0).any(axis=(0, 2, 3)) if x.ndim == 4 else (x > 0).any(axis=0)
            wanted = {place.name: 1 - fired.mean()}
            expect(history, Stream.ACTIVATION, Stat.INACTIVE_SHARE, wanted)
        if place.kind == "Tanh":
            wanted = {place.name: (np.abs(x) > 0.99).mean()}
            expect(history, Stream.ACTIVATION, Stat.SATURATED_SHARE, wanted)
        if place.kind == "Sigmoid":
            wanted = {place.name: ((x < 0.01) | (x > 0.99)).mean()}
            expect(history, Stream.ACTIVATION, Stat.SATURATED_SHARE, wanted)


def test_the_loss_the_norm_and_the_learning_rate(run):
    reference, history, _, losses = run
    assert history.scalar("loss").values == pytest.approx(losses, rel=1e-6)
    total = np.sqrt(sum((g**2).sum() for g in reference.gradients.values()))
    assert history.scalar("gradient_norm").values[-1] == pytest.approx(total, rel=1e-5)
    assert history.scalar("learning_rate/0").values == pytest.approx([1e-2] * STEPS)
