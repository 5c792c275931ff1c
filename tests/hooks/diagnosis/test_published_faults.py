"""Faults from published collections (Stack Overflow questions, DeepFD, DeepDiagnosis, DeepCrime),
as small programs: each has the right headline, and the repaired program has none."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from sklearn.datasets import make_circles, make_multilabel_classification  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.optim import SGD, Adam, AdamW, RMSprop  # noqa: E402

from helpers.short_and_slow import parameters  # noqa: E402
from helpers.small_runs import digits, layers, linears, train  # noqa: E402


@pytest.fixture(autouse=True)
def _the_same_weights_every_time():
    torch.manual_seed(0)


def adam(model, rate=1e-3, **options):
    return Adam(model.parameters(), rate, **options)


def sgd(model, rate, **options):
    return SGD(model.parameters(), rate, **options)


def several_labels(*, faulty):
    inputs, labels = make_multilabel_classification(2000, 20, n_classes=3, random_state=0)
    inputs, labels = torch.tensor(inputs).float(), torch.tensor(labels).float()
    if faulty:
        model = layers(20, 20, 20, 3).append(nn.Softmax(1))
        return train(model, sgd(model, 0.01), F.mse_loss, data=(inputs, labels), batch=20)
    model, scaled = layers(20, 20, 20, 3), (inputs - inputs.mean(0)) / inputs.std(0)
    loss = F.binary_cross_entropy_with_logits
    return train(model, sgd(model, 0.3), loss, data=(scaled, labels), batch=20)


def softmax_and_squares(*, faulty):
    inputs, labels = digits()
    model = layers(64, 64, 10, activation=nn.Tanh)
    if not faulty:
        return train(model, sgd(model, 0.1), data=(inputs, labels))
    model.append(nn.Softmax(1))
    data = inputs, F.one_hot(labels, 10).float()
    return train(model, sgd(model, 0.1, momentum=0.9), F.mse_loss, data=data)


def softmax_of_one_unit(*, faulty):
    inputs, labels = digits()
    data = inputs, (labels % 2).float()
    model = layers(64, 50, 1)
    if faulty:
        model.append(nn.Softmax(1))
    loss = F.binary_cross_entropy if faulty else F.binary_cross_entropy_with_logits
    rate = RMSprop(model.parameters(), 1e-3)
    return train(model, rate, lambda p, y: loss(p[:, 0], y), data=data, steps=80)


def empty_images(*, faulty):
    inputs, labels = digits()
    model = layers(64, 64, 10)
    return train(model, adam(model), data=(inputs * (0 if faulty else 1), labels), steps=60)


def scaled_twice(*, faulty):
    inputs, labels = digits()
    model = layers(64, 64, 10)
    data = inputs / (255 if faulty else 1), labels
    return train(model, sgd(model, 0.1), data=data)


def prices(*, faulty):
    inputs = torch.randn(2000, 10)
    targets = 1e6 + 3e5 * inputs[:, :3].sum(1, keepdim=True)
    if not faulty:
        targets = (targets - targets.mean()) / targets.std()
    model = layers(10, 20, 20, 1, activation=nn.Tanh)
    return train(model, adam(model), F.l1_loss, data=(inputs, targets), batch=32)


def outliers(*, faulty):
    inputs = torch.randn(3000, 8)
    targets = inputs @ torch.randn(8, 1)
    if faulty:
        targets[torch.rand(3000) < 0.02] *= 100
    model = layers(8, 64, 1)
    return train(model, adam(model, 3e-3), F.mse_loss, data=(inputs, targets), steps=200)


class Quadratic(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.zeros(())) for _ in range(3))

    def forward(self, x):
        return self.a * x * x + self.b * x + self.c


def sum_of_squares(*, faulty):
    inputs = torch.linspace(0, 3, 64)
    model = Quadratic()

    def loss(prediction, target):
        return F.mse_loss(prediction, target, reduction="sum" if faulty else "mean")

    return train(model, sgd(model, 0.01), loss, data=(inputs, inputs**2))


def circles(*, faulty):
    inputs, labels = make_circles(1000, noise=0.1, factor=0.4, random_state=0)
    data = torch.tensor(inputs).float(), torch.tensor(labels)
    if faulty:
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2))
        return train(model, sgd(model, 0.1), data=data, batch=32)
    model = layers(2, 16, 16, 2)
    return train(model, adam(model, 1e-2), data=data, batch=32)


def penalty(*, faulty):
    inputs = torch.randn(500, 10)
    targets = torch.tanh(inputs[:, :1] + inputs[:, 1:2]) + 0.3 * torch.randn(500, 1)
    model = layers(10, 64, 64, 1)

    def loss(prediction, target):
        size = sum(p.square().sum() for p in model.parameters())
        return F.mse_loss(prediction, target) + 0.1 * faulty * size

    return train(model, adam(model), loss, data=(inputs, targets), batch=32, steps=500)


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(64, 64), nn.LayerNorm(64)
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        return self.last(self.norm(F.relu(self.first(x))))


def decay_of_all(*, faulty):
    model = Normalised()
    optimizer = AdamW(model.parameters(), 1e-3, weight_decay=1.0 if faulty else 0.01)
    return train(model, optimizer, steps=300)


def batch_of_one(*, faulty):
    inputs = (torch.rand(2000, 500) < 0.03).float()
    labels = (inputs @ torch.randn(500) + 2 * torch.randn(2000) > 0).float()
    model = layers(500, 32, 1)
    optimizer = RMSprop(model.parameters(), 1e-3)

    def loss(prediction, target):
        return F.binary_cross_entropy_with_logits(prediction[:, 0], target)

    size = 1 if faulty else 64
    return train(model, optimizer, loss, data=(inputs, labels), batch=size, steps=400, every=20)


def selu(*, faulty):
    inputs, labels = digits()
    model = layers(64, *[64] * 20, 10, activation=nn.SELU)
    for layer in linears(model):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu" if faulty else "linear")
        nn.init.zeros_(layer.bias)
    data = inputs if faulty else (inputs - inputs.mean()) / inputs.std(), labels
    return train(model, sgd(model, 0.01), data=data, steps=60)


def sigmoids_with_he(*, faulty):
    activation = nn.ReLU if faulty is False else nn.Sigmoid
    model = layers(64, 32, 32, 32, 32, 10, activation=activation)
    for layer in linears(model):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return train(model, sgd(model, 0.1), steps=200)


def rare_classes(*, faulty):
    inputs = torch.randn(3000, 4)
    labels = torch.where(torch.rand(3000) < 0.98, 0, torch.randint(1, 10, (3000,)))
    inputs[torch.arange(3000), labels % 4] += 0.3 * labels
    if not faulty:
        labels = torch.randint(0, 4, (3000,))
        inputs[torch.arange(3000), labels] += 3.0
    model = layers(4, 32, 10)
    rate = 0.5 if faulty else 0.1
    return train(model, sgd(model, rate), data=(inputs, labels), batch=32, steps=200)


FAULTS = {
    "loss_task_mismatch": [several_labels, softmax_and_squares],
    "softmax_before_cross_entropy": [softmax_of_one_unit],
    "constant_or_duplicate_input": [empty_images],
    "unnormalised_input": [scaled_twice],
    "target_not_scaled": [prices],
    "target_outliers": [outliers],
    "learning_rate_too_high": [sum_of_squares],
    "missing_nonlinearity": [circles],
    "over_regularised": [penalty],
    "bias_regularised": [decay_of_all],
    "gradient_noise_dominates": [batch_of_one],
    "init_activation_mismatch": [selu, sigmoids_with_he],
    "class_imbalance": [rare_classes],
}
CASES = [pytest.param(h, p, id=p.__name__) for h, programs in FAULTS.items() for p in programs]
PROGRAMS = {p.__name__: p for programs in FAULTS.values() for p in programs}
SLOW = {
    *("penalty", "batch_of_one", "decay_of_all", "softmax_and_squares", "sigmoids_with_he"),
    *("outliers", "scaled_twice", "rare_classes"),
}


@pytest.mark.parametrize(("headline", "program"), CASES)
def test_the_fault_is_the_headline(headline, program):
    outcome = program(faulty=True)
    assert outcome.headline == headline, [f.summary for f in outcome.diagnosis.findings]


@pytest.mark.parametrize("program", parameters(PROGRAMS, slow=SLOW))
def test_the_repaired_program_never_has_a_headline(program):
    outcome = program(faulty=False)
    assert outcome.headlines == [], [f.summary for f in outcome.diagnosis.findings]
