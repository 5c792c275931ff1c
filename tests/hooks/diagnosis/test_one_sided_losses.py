"""Real small trainings: errors without a square, and cross entropies of the positives alone."""

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.small_runs import layers  # noqa: E402
from helpers.wiring_runs import Run, Seen, train  # noqa: E402


def seen(loss: Callable[[Tensor, Tensor], Tensor], *, labels: bool = False) -> Seen:
    """Train two outputs on two numbers, or on two labels of 0 and 1."""
    torch.manual_seed(0)
    x = torch.randn(400, 8)
    y = x @ torch.randn(8, 2) / 3 + 0.1 * torch.randn(400, 2)
    data = (x, (y > 0).float() if labels else y)
    return train(Run(layers(8, 32, 2), loss, data=data, gives_tensors=True))


SIGNED = [
    lambda o, y: (o - y).mean(),
    lambda o, y: (y - o).sum() / len(y),
    lambda o, y: 3 * (o - y).sum(1).mean(),
    lambda o, y: ((o - y) ** 3).mean(),
]
AVERAGED = [
    lambda o, y: ((o - y).mean(0) ** 2).mean(),
    lambda o, y: (o - y).mean().square(),
    lambda o, y: (y - o).mean(0).abs().sum(),
    lambda o, y: ((o - y).mean(1) ** 2).mean(),
    lambda o, y: F.mse_loss(o.mean(1), y.mean(1)),
    lambda o, y: (y.mean(0) - o.mean(0)).abs().sum(),
    lambda o, y: F.smooth_l1_loss(o.sum(0) / len(o), y.mean(0)),
    lambda o, y: (o.mean() - y[:, 0].mean()) ** 2,
]
POSITIVES = [
    lambda o, y: -(y * F.logsigmoid(o)).sum() / y.sum(),
    lambda o, y: -(y * o.sigmoid().log()).mean(),
]


@pytest.mark.parametrize(
    ("text", "loss", "labels"),
    [
        *[("without a square", loss, False) for loss in SIGNED],
        *[("before they are squared", loss, False) for loss in AVERAGED],
        *[("without (1 − target)", loss, True) for loss in POSITIVES],
    ],
)
def test_a_one_sided_loss_is_named_within_three_steps(text, loss, labels):
    found = seen(loss, labels=labels)
    assert (found.headline, found.first_alarm < 3) == ("loss_task_mismatch", True)
    assert text in found.summary


def ratio_without_its_sign(o: Tensor, y: Tensor) -> Tensor:
    """Return minus the decibels of an error that is above 1 at first."""
    return -10 * (10 * F.mse_loss(o, y)).log10()


def test_a_negative_loss_whose_predictions_leave_the_targets_has_the_wrong_sign():
    torch.manual_seed(0)
    x = torch.randn(400, 8)
    y = x @ torch.randn(8, 2) / 3
    run = Run(layers(8, 128, 128, 2), ratio_without_its_sign, data=(x, y), gives_tensors=True)
    found = train(run, 300)
    assert found.headline == "loss_task_mismatch"
    assert "the predictions leave the targets" in found.summary


def test_a_negative_loss_of_logits_is_healthy():
    x = torch.randn(400, 8)
    run = Run(
        layers(8, 32, 2),
        lambda o, y: F.logsigmoid(-(2 * y - 1) * o.clamp(-9, 9)).exp().mean() - 1,
        data=(x, (x[:, :2] > 0).float()),
        gives_tensors=True,
    )
    assert "loss_task_mismatch" not in train(run, 300).alarms


def of_times(loss: Callable[[Tensor, Tensor], Tensor]) -> Seen:
    """Train four states of two numbers."""
    torch.manual_seed(0)
    x = torch.randn(400, 8)
    model = nn.Sequential(layers(8, 32, 8), nn.Unflatten(1, (4, 2)))
    return train(Run(model, loss, data=(x, x.view(-1, 4, 2).cumsum(1)), gives_tensors=True))


def test_one_of_several_targets_that_is_repeated_is_named():
    found = of_times(lambda o, y: F.mse_loss(o, y[:, -1:].expand_as(o)))
    assert "one of its targets, repeated" in found.summary
    assert found.first_alarm < 3


@pytest.mark.parametrize(
    "loss",
    [lambda o, y: F.mse_loss(o, y), lambda o, y: F.mse_loss(o[:, -1], y[:, -1])],
)
def test_targets_that_are_not_repeated_are_healthy(loss):
    assert "loss_task_mismatch" not in of_times(loss).alarms


def nll(mean: Tensor, logarithm: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (logarithm + (y - mean) ** 2 * (-logarithm).exp()).mean()


def of_one_number(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Seen:
    """Train a mean and the logarithm of a variance, shapes (samples, 1), on one number."""
    torch.manual_seed(0)
    x = torch.randn(400, 8)
    run = Run(
        layers(8, 32, 2),
        lambda o, y: loss(o[:, :1], o[:, 1:], y),
        data=(x, x[:, 0] + 0.1 * torch.randn(400)),
        gives_tensors=True,
    )
    return train(run)


def repeated(m: Tensor, v: Tensor, y: Tensor) -> Tensor:
    n = len(y)
    return nll(m.repeat_interleave(n, 0), v.repeat_interleave(n, 0), y[:, None].repeat(n, 1))


@pytest.mark.parametrize("loss", [nll, repeated])
def test_means_that_are_compared_with_all_targets_are_named(loss):
    found = of_one_number(loss)
    assert "each of n predicted means with each of n targets" in found.summary
    assert found.first_alarm < 3


def sampled(m: Tensor, v: Tensor, y: Tensor) -> Tensor:
    """Return the likelihood of as many samples of each mean as there are targets."""
    return nll(m + 0.1 * torch.randn(len(y), len(y)), v, y[:, None])


@pytest.mark.parametrize("loss", [lambda m, v, y: nll(m, v, y[:, None]), sampled])
def test_means_that_are_compared_with_their_own_target_are_healthy(loss):
    assert "loss_task_mismatch" not in of_one_number(loss).alarms


def pinball(o: Tensor, y: Tensor) -> Tensor:
    error = y - o
    return torch.maximum(0.9 * error, -0.1 * error).mean()


def pinball_of_signs(o: Tensor, y: Tensor) -> Tensor:
    error = y - o
    return (error * (0.9 - (error < 0).float())).mean()


def critic(o: Tensor, y: Tensor) -> Tensor:
    """Return a critic's difference of means, with a penalty that limits it."""
    kind = y[:, 0] > 0
    return o[kind].mean() - o[~kind].mean() + o.square().mean()


def policy_gradient(o: Tensor, y: Tensor) -> Tensor:
    action = torch.distributions.Categorical(logits=o.detach()).sample()
    log_probability = o.log_softmax(1).gather(1, action[:, None])
    return -(log_probability * (y[:, :1] - y[:, :1].mean())).mean()


def distillation(o: Tensor, y: Tensor) -> Tensor:
    """Return a KL divergence that is written with differences of logarithms."""
    target = y.log_softmax(1)
    return (target.exp() * (target - o.log_softmax(1))).sum(1).mean()


HEALTHY = {
    "squared": lambda o, y: ((o - y) ** 2).mean(),
    "multiplied by itself": lambda o, y: ((o - y) * (o - y)).mean(),
    "sum of each sample's outputs": lambda o, y: F.mse_loss(o.sum(1), y.sum(1)),
    "square that is averaged": lambda o, y: ((o - y) ** 2).mean(1).sqrt().mean(),
    "weighted mean": lambda o, y: F.mse_loss((o * y.abs()).mean(1), y.mean(1)),
    "with the mean error as a second term": lambda o, y: (
        F.mse_loss(o, y) + (o - y).mean(0).square().sum()
    ),
    "pinball": pinball,
    "pinball of signs": pinball_of_signs,
    "margin": lambda o, y: (1 - o * y.sign()).relu().mean(),
    "critic": critic,
    "policy gradient": policy_gradient,
    "distillation": distillation,
}


@pytest.mark.parametrize("name", HEALTHY)
def test_other_differences_are_healthy(name):
    assert "loss_task_mismatch" not in seen(HEALTHY[name]).alarms


@pytest.mark.parametrize("shape", [(400,), (400, 1)])
def test_a_mean_of_several_outputs_with_one_target_is_healthy(shape):
    data = (torch.randn(400, 8), torch.randn(shape))
    run = Run(
        layers(8, 32, 2),
        lambda o, y: F.mse_loss(o.mean(1).reshape(y.shape), y),
        data=data,
        gives_tensors=True,
    )
    assert "loss_task_mismatch" not in train(run).alarms


LABELS = {
    "both terms": lambda o, y: -(y * F.logsigmoid(o)).mean() - ((1 - y) * F.logsigmoid(-o)).mean(),
    "signs": lambda o, y: -F.logsigmoid((2 * y - 1) * o).mean(),
    "sampled negatives": lambda o, y: (
        -(y * F.logsigmoid(o)).sum() / y.sum() - F.logsigmoid(-o.roll(1, 0)).mean()
    ),
    "generator": lambda o, _: -F.logsigmoid(o).mean(),
    "classes": lambda o, y: -((y + 0.1) * o.log_softmax(1)).sum(1).mean(),
}


@pytest.mark.parametrize("name", LABELS)
def test_other_losses_of_labels_are_healthy(name):
    assert "loss_task_mismatch" not in seen(LABELS[name], labels=True).alarms


def test_a_generator_whose_targets_are_all_1_is_healthy():
    def loss(o: Tensor, y: Tensor) -> Tensor:
        return -(y * F.logsigmoid(o)).mean()

    data = (torch.randn(400, 8), torch.ones(400, 2))
    found = train(Run(layers(8, 32, 2), loss, data=data, gives_tensors=True))
    assert "loss_task_mismatch" not in found.alarms


def test_scores_of_a_frozen_critic_are_no_target():
    data = (torch.randn(400, 8), torch.randn(400, 2))
    run = Run(nn.Sequential(nn.Linear(8, 2), nn.Tanh()), lambda o, y: (y - o).mean(), data=data)
    assert "loss_task_mismatch" not in train(run).alarms
