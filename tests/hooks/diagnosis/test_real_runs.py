"""Healthy trainings of real networks are met with silence, sick ones with the right headline."""

import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.optim import SGD, Adam  # noqa: E402

from helpers.short_and_slow import parameters  # noqa: E402
from helpers.small_runs import Outcome, digits, layers, linears, train  # noqa: E402


@pytest.fixture(autouse=True)
def _the_same_weights_every_time():
    torch.manual_seed(0)


def adam(model: nn.Module, rate: float = 1e-3) -> Adam:
    return Adam((p for p in model.parameters() if p.requires_grad), rate)


def cnn(norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    def block(n: int, m: int) -> list[nn.Module]:
        return [nn.Conv2d(n, m, 3, padding=1), *([nn.BatchNorm2d(m)] if norm else []), nn.ReLU()]

    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), *block(1, 8), *block(8, 16), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(dropout), nn.Linear(256, 10),
    )  # fmt: skip


class Recurrent(nn.Module):
    """An image read row by row."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells = kind(8, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.cells(x.view(-1, 8, 8))[0][:, -1])


class Transformer(nn.Module):
    """An image as eight tokens."""

    def __init__(self, depth: int = 2, width: int = 32, norm_first: bool = True) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x.view(-1, 8, 8))).mean(1))


class LowRank(nn.Module):
    """A frozen layer with a low-rank update that starts at zero."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(n, m).requires_grad_(False)
        self.a = nn.Parameter(torch.randn(4, n) * 0.1)
        self.b = nn.Parameter(torch.zeros(m, 4))

    def forward(self, x):
        return self.frozen(x) + x @ self.a.T @ self.b.T


class Residual(nn.Module):
    """A branch that starts at zero, so that the block starts as the identity."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(n, n), nn.Linear(n, n)
        nn.init.zeros_(self.last.weight)

    def forward(self, x):
        return x + self.last(torch.relu(self.first(x)))


def regression(offset: float = 0.0):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(512, 8, generator=generator)
    return inputs, inputs @ torch.randn(8, 1, generator=generator) + offset


def deep_tanh():
    model = layers(64, *[32] * 8, 10, activation=nn.Tanh)
    for layer in linears(model):
        nn.init.orthogonal_(layer.weight, 5 / 3)
        nn.init.zeros_(layer.bias)
    return train(model, adam(model))


def pretrained():
    model = layers(64, 64, 10)
    train(model, adam(model, 1e-2))
    return train(model, adam(model, 1e-5))


def q_learning():
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(1000, 6, generator=generator)
    after = torch.cat([(states[:, :1] > 0).float(), torch.randn(1000, 6, generator=generator)], 1)
    model = layers(6, 32, 3)
    target, seen = copy.deepcopy(model).requires_grad_(False), [0]

    def loss(values, experience):
        seen[0] += 1
        if seen[0] % 20 == 0:
            target.load_state_dict(model.state_dict())
        goal = experience[:, :1] + 0.9 * target(experience[:, 1:]).amax(1, keepdim=True)
        return F.smooth_l1_loss(values[:, :1], goal)

    return train(model, adam(model), loss, data=(states, after), steps=300)


def policy_gradient(rate: float = 1e-3):
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(1000, 8, generator=generator)
    model, baseline = layers(8, 32, 4), [0.0]

    def loss(logits, best):
        policy = torch.distributions.Categorical(logits=logits)
        action = policy.sample()
        reward = (action == best).float()
        advantage = reward - baseline[0]
        baseline[0] = 0.9 * baseline[0] + 0.1 * float(reward.mean())
        return -(policy.log_prob(action) * advantage).mean()

    data = (states, states[:, :4].argmax(1))
    return train(model, adam(model, rate), loss, data=data, steps=200)


def plain(model: nn.Module, rate: float = 1e-3, **options) -> Outcome:
    return train(model, adam(model, rate), **options)


def sgd(model: nn.Module, rate: float, momentum: float = 0.0, **options) -> Outcome:
    return train(model, SGD(model.parameters(), rate, momentum=momentum), **options)


def head_on_a_fixed_backbone():
    model = layers(64, 256, 64, 10)
    train(model, adam(model, 1e-2), steps=100)
    model[4].reset_parameters()
    return train(model, adam(model[4], 1e-2))


HEALTHY = {
    "a perceptron": lambda: plain(layers(64, 64, 32, 10)),
    "a perceptron with momentum": lambda: sgd(layers(64, 64, 10), 0.1, 0.9),
    "Adam at 1e-2": lambda: plain(layers(64, 256, 10), 1e-2),
    "batches of four": lambda: sgd(layers(64, 64, 10), 5e-3, 0.9, batch=4, steps=600),
    "a convolutional network": lambda: plain(cnn()),
    "a convolutional network with BatchNorm": lambda: sgd(cnn(norm=True), 0.1),
    "dropout": lambda: plain(cnn(dropout=0.5)),
    "an LSTM with clipping": lambda: plain(Recurrent(nn.LSTM), 3e-3, clip=1.0),
    "a GRU": lambda: plain(Recurrent(nn.GRU), 3e-3),
    "a transformer": lambda: plain(Transformer()),
    "LayerNorm and GELU, eight deep": lambda: plain(
        layers(64, *[32] * 8, 10, norm=nn.LayerNorm, activation=nn.GELU)
    ),
    "eight tanh layers, orthogonal": deep_tanh,
    "ten ReLU layers with PyTorch's default": lambda: plain(layers(64, *[32] * 9, 10), steps=250),
    "one sigmoid layer": lambda: plain(layers(64, 32, 10, activation=nn.Sigmoid), 1e-2),
    "a warm-up from zero": lambda: plain(
        layers(64, 64, 10), schedule=lambda step: 3e-3 * min(1, step / 100), steps=200
    ),
    "a learning rate in cycles": lambda: sgd(
        layers(64, 64, 10), 0.01, schedule=lambda s: 0.01 + 0.29 * abs((s % 80) / 40 - 1), steps=240
    ),
    "regression": lambda: plain(
        layers(8, 32, 1), loss=F.mse_loss, data=regression(), batch=32, steps=250
    ),
    "regression with a small offset": lambda: plain(
        layers(8, 32, 1), 3e-3, loss=F.mse_loss, data=regression(2.0), batch=32, steps=250
    ),
    "an autoencoder with a bottleneck": lambda: plain(
        layers(64, 32, 8, 32, 64), loss=F.mse_loss, data=(digits()[0],) * 2, steps=200
    ),
    "low-rank updates of frozen layers": lambda: plain(
        nn.Sequential(LowRank(64, 64), nn.ReLU(), LowRank(64, 10)), 5e-3
    ),
    "residual branches that start at zero": lambda: plain(
        nn.Sequential(nn.Linear(64, 32), *[Residual(32) for _ in range(6)], nn.Linear(32, 10))
    ),
    "a pretrained network at a small rate": pretrained,
    "a head on a backbone the optimizer leaves out": head_on_a_fixed_backbone,
    "bootstrapped targets": q_learning,
    "a policy gradient, whose loss has no floor": policy_gradient,
    "a policy gradient at a high but working rate": lambda: policy_gradient(0.03),
    "a long run to the end": lambda: plain(layers(64, 64, 10), 3e-3, steps=800),
}
SLOW = {
    *("a long run to the end", "batches of four", "a perceptron with momentum", "Adam at 1e-2"),
    *("a convolutional network", "a GRU", "regression with a small offset", "dropout"),
    *("a policy gradient, whose loss has no floor", "a warm-up from zero"),
    *("ten ReLU layers with PyTorch's default", "bootstrapped targets"),
    "a pretrained network at a small rate",
}
"""A run of the same kind is in `make test`."""


@pytest.mark.parametrize("run", parameters(HEALTHY, slow=SLOW))
def test_of_a_healthy_run_nothing_is_said_at_any_time(run):
    assert run().headlines == []


@pytest.mark.parametrize("name", ["a perceptron", "a convolutional network with BatchNorm"])
def test_nor_when_it_is_measured_rarely(name, monkeypatch):
    monkeypatch.setitem(train.__kwdefaults__, "every", 25)
    assert HEALTHY[name]().headlines == []


def dead_layer(at: int):
    model = layers(64, 64, 32, 10)
    nn.init.constant_(model[at].bias, -10.0)
    return plain(model)


def filled(value: float):
    model = layers(64, 64, 32, 10)
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    return plain(model)


def scaled_normal(std: float, *widths: int, activation=nn.ReLU):
    model = layers(*widths, activation=activation)
    for layer in linears(model):
        nn.init.normal_(layer.weight, 0, std)
    return model


def head_replaced_after_the_optimizer_was_built():
    model = layers(64, 64, 32, 10)
    optimizer = adam(model)
    model[4] = nn.Linear(32, 10)
    return train(model, optimizer)


def first_layer_missing():
    model = layers(64, 32, 64, 64, 10)
    return train(model, adam(model[2:]))


def fast_head_bias():
    model = layers(64, 64, 10)
    rest = [p for n, p in model.named_parameters() if n != "2.bias"]
    optimizer = SGD([{"params": rest}, {"params": [model[2].bias], "lr": 10.0}], 0.01)
    return train(model, optimizer)


def log_of_zero(scores, labels):
    shares = torch.relu(scores)
    return -(shares / shares.sum(1, keepdim=True)).gather(1, labels[:, None]).log().mean()


def root_of_zero(scores, labels):
    return F.cross_entropy(scores, labels) + torch.sqrt((scores * 0).sum())


def random_labels():
    return (
        torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0)),
        torch.randint(0, 10, (20_000,), generator=torch.Generator().manual_seed(1)),
    )


SICK = {
    "twelve sigmoid layers": (
        "vanishing_gradient",
        lambda: plain(layers(64, *[32] * 12, 10, activation=nn.Sigmoid)),
    ),
    "eight sigmoid layers, SGD": (
        "vanishing_gradient",
        lambda: sgd(layers(64, *[32] * 8, 10, activation=nn.Sigmoid), 0.1),
    ),
    "SGD at 50": ("learning_rate_too_high", lambda: sgd(layers(64, 64, 32, 10), 50.0)),
    "Adam at 1": ("learning_rate_too_high", lambda: plain(cnn(), 1.0)),
    "a policy gradient at 0.5": ("learning_rate_too_high", lambda: policy_gradient(0.5)),
    "a regression that diverges": (
        "learning_rate_too_high",
        lambda: sgd(layers(8, 32, 1), 2.0, loss=F.mse_loss, data=regression(), steps=60),
    ),
    "a rate raised a thousandfold in mid-run": (
        "learning_rate_too_high",
        lambda: sgd(
            layers(64, 64, 32, 10), 0.1, schedule=lambda s: 0.1 if s < 100 else 100.0, steps=170
        ),
    ),
    "a post-norm transformer without warm-up": (
        "learning_rate_too_high",
        lambda: plain(Transformer(4, 32, norm_first=False), 3e-2, steps=100),
    ),
    "a dead layer": ("dead_relu", lambda: dead_layer(2)),
    "a dead first layer": ("dead_relu", lambda: dead_layer(0)),
    "saturated tanh layers": (
        "init_scale_too_large",
        lambda: sgd(scaled_normal(3.0, 64, 64, 64, 10, activation=nn.Tanh), 1e-3, steps=60),
    ),
    "targets around 50": (
        "target_not_scaled",
        lambda: sgd(layers(8, 1), 3e-3, loss=F.mse_loss, data=regression(50.0), batch=32),
    ),
    "a head's bias at a rate of 10": ("bias_drift", fast_head_bias),
    "all zeros": ("symmetric_init", lambda: filled(0.0)),
    "all the same": ("symmetric_init", lambda: filled(0.05)),
    "a head the optimizer does not know": (
        "parameter_not_updated",
        head_replaced_after_the_optimizer_was_built,
    ),
    "a first layer the optimizer does not know": ("parameter_not_updated", first_layer_missing),
    "SGD at 1e-6": ("learning_rate_too_low", lambda: sgd(layers(64, 64, 10), 1e-6)),
    "Adam at 1e-7": ("learning_rate_too_low", lambda: plain(layers(64, 64, 10), 1e-7)),
    "the logarithm of zero": (
        "non_finite_value",
        lambda: plain(layers(64, 64, 10), loss=log_of_zero, steps=40),
    ),
    "the root of zero": (
        "non_finite_value",
        lambda: plain(layers(64, 64, 10), loss=root_of_zero, steps=40),
    ),
    "weights too large, fifteen deep": (
        "init_scale_too_large",
        lambda: sgd(scaled_normal(0.5, 64, *[64] * 15, 10), 0.01, steps=40),
    ),
    "twenty ReLU layers with PyTorch's default": (
        "init_scale_too_small",
        lambda: sgd(layers(64, *[64] * 20, 10), 0.01),
    ),
    "random labels": (
        "label_noise",
        lambda: plain(layers(16, 16, 10), data=random_labels(), steps=320),
    ),
}


SLOW_SICK = {
    *("twelve sigmoid layers", "a post-norm transformer without warm-up", "a dead layer"),
    *("all zeros", "a head the optimizer does not know", "a regression that diverges", "Adam at 1"),
}


@pytest.mark.parametrize("sick", parameters(SICK, slow=SLOW_SICK))
def test_a_sick_run_gets_the_right_headline(sick):
    headline, run = sick
    outcome = run()
    assert outcome.headline == headline, [f.summary for f in outcome.diagnosis.findings]


def test_a_dead_layer_is_named_with_the_step_and_explains_the_loss_that_stays():
    outcome = dead_layer(2)
    assert (outcome.where, outcome.diagnosis.headline.since_step) == ("3", 0)
    assert {f.explained_by for f in outcome.diagnosis.open if f.rule == "no_learning"} == {"TV201"}


def test_the_root_of_zero_is_told_as_a_fault_of_the_backward_pass():
    outcome = plain(layers(64, 64, 10), loss=root_of_zero, steps=20)
    assert "backward" in outcome.diagnosis.headline.summary


def test_a_rate_too_high_explains_the_layers_it_killed():
    outcome = plain(cnn(), 1.0)
    killed = [f for f in outcome.diagnosis.open if f.rule == "dead_relu"]
    assert killed
    assert {f.explained_by for f in killed} == {"TV601"}


def test_a_parameter_no_optimizer_holds_is_named():
    outcome = head_replaced_after_the_optimizer_was_built()
    assert outcome.where == "4.weight"
