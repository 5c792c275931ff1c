"""Real small trainings: what the loss compares, in which unit, and which batches it sees."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.small_runs import layers  # noqa: E402
from helpers.wiring_runs import Run, binary, mlp, train  # noqa: E402
from trainvitals.diagnosis.fixes import Moment, parts  # noqa: E402
from trainvitals.diagnosis.rules.loss_task_mismatch import LossTaskMismatch  # noqa: E402
from trainvitals.diagnosis.rules.softmax_before_cross_entropy import (  # noqa: E402
    SoftmaxBeforeCrossEntropy,
)
from trainvitals.diagnosis.supervision import loss_of_constant  # noqa: E402

LENGTH, TAGS, STEPS = 6, 4, 40


class Tagger(nn.Module):
    """One tag for each word, from the word itself."""

    def __init__(self, padding: int | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16, padding_idx=padding)
        self.body = layers(16, 32, TAGS)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.embedding(x))  # type: ignore[no-any-return]


def tagged() -> tuple[Tensor, Tensor]:
    words = torch.randint(20, (400, LENGTH), generator=torch.Generator().manual_seed(0))
    return words, words % TAGS


def tagger(loss: Callable[[Tensor, Tensor], Tensor]) -> Run:
    return Run(Tagger(), loss, data=tagged())


def padded(ignored: int) -> Run:
    """Return tags of sequences whose last four words of six are padding, the word 0."""
    words, tags = tagged()
    words, tags = words.clamp_min(1), tags.clone()
    words[:, 2:], tags[:, 2:] = 0, ignored
    return Run(Tagger(padding=0), flat, data=(words, tags))


def weighted(weight: float) -> Run:
    def loss(o: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(o, y, pos_weight=torch.tensor(weight))

    return Run(mlp(outputs=1), loss, data=binary(lambda y: y < 2))


def flat(o: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(o.flatten(0, 1), y.flatten())


def ignored(loss: Callable[[Tensor, Tensor], Tensor]) -> Run:
    """Return tags of which two of six are marked as ignored in the targets that are reported."""
    words, tags = tagged()
    tags = tags.clone()
    tags[:, ::3] = -100
    return Run(Tagger(), loss, data=(words, tags), gives_tensors=True)


def masked_by_hand(o: Tensor, y: Tensor) -> Tensor:
    """Return the mean loss of the targets that are not marked; the others get class 0."""
    losses = F.cross_entropy(o.transpose(1, 2), y.clamp_min(0), reduction="none")
    return (losses * (y >= 0)).sum() / (y >= 0).sum()


def weighted_labels(first: float) -> Run:
    """Return two labels, with a `pos_weight` for each."""
    torch.manual_seed(0)
    x = torch.randn(400, 8)
    weight = torch.tensor([first, 1.0])
    return Run(
        layers(8, 32, 2),
        lambda o, y: F.binary_cross_entropy_with_logits(o, y, pos_weight=weight),
        data=(x, (x[:, :2] > 0).float()),
    )


def of_numbers(loss: Callable[[Tensor, Tensor], Tensor]) -> Run:
    """Return one number for each sample, of which the program reports columns of one shape."""
    data = binary(lambda y: y / 9)
    return Run(mlp(outputs=1), loss, data=data, gives_tensors=True)


def of_first(o: Tensor, y: Tensor) -> Tensor:
    return flat(o[:, :1], y[:, :1])


def of_each(o: Tensor, y: Tensor) -> Tensor:
    """Return the sum of one loss for each word, as a recurrent decoder computes it."""
    return torch.stack([F.cross_entropy(o[:, t], y[:, t]) for t in range(LENGTH)]).mean()


def of_a_random_word(o: Tensor, y: Tensor) -> Tensor:
    at = int(torch.randint(LENGTH, ()))
    return F.cross_entropy(o[:, at], y[:, at])


def of_words(o: Tensor, y: Tensor) -> Tensor:
    """Return the mean loss of the first two words, which are no padding."""
    words = (torch.arange(LENGTH) < 2).expand(len(y), -1).flatten()
    losses = F.cross_entropy(o.flatten(0, 1), y.flatten(), reduction="none")
    return (losses * words).sum() / words.sum()


def masked() -> Run:
    return replace(padded(0), loss=of_words)


def one_answer() -> Run:
    words, tags = tagged()
    return Run(Tagger(), lambda o, y: F.cross_entropy(o[:, -1], y), data=(words, tags[:, -1] * 1))


def same_batch(_: int) -> Tensor:
    return torch.arange(32)


def dropped() -> nn.Sequential:
    return nn.Sequential(nn.Dropout(0.2), *layers(64, 256, 10))


def normed(momentum: float) -> nn.Sequential:
    return layers(64, 32, 16, 10, norm=lambda n: nn.BatchNorm1d(n, momentum=momentum))


FAULTS: dict[str, tuple[str, Callable[[], Run]]] = {
    "logits reshaped instead of swapped": (
        "loss_task_mismatch",
        lambda: tagger(lambda o, y: F.cross_entropy(o.reshape(-1, TAGS, LENGTH), y)),
    ),
    "log-softmax over the positions": (
        "softmax_before_cross_entropy",
        lambda: tagger(lambda o, y: F.nll_loss(o.log_softmax(1).flatten(0, 1), y.flatten())),
    ),
    "the loss of the first word only": ("no_supervision", lambda: tagger(of_first)),
    "one batch with dropout": (
        "constant_or_duplicate_input",
        lambda: Run(dropped(), order=same_batch),
    ),
    "a column minus a row, by hand": (
        "loss_task_mismatch",
        lambda: of_numbers(lambda o, y: (o - y[:, 0]).square().mean()),
    ),
    "a column and a row": (
        "loss_task_mismatch",
        lambda: of_numbers(lambda o, y: F.mse_loss(o, y[:, 0])),
    ),
    "the targets of padding": ("loss_task_mismatch", lambda: padded(0)),
    "targets marked as ignored that got a class": (
        "loss_task_mismatch",
        lambda: ignored(lambda o, y: flat(o, y.clamp_min(0))),
    ),
    "a weight of zero for the positive targets of a label": (
        "loss_task_mismatch",
        lambda: weighted_labels(0.0),
    ),
    "a weight of ten thousand for positive targets": ("class_imbalance", lambda: weighted(1e4)),
    "the momentum of another library": ("wrong_train_eval_mode", lambda: Run(normed(0.99))),
}
HEALTHY: dict[str, Callable[[], Run]] = {
    "swapped": lambda: tagger(lambda o, y: F.cross_entropy(o.transpose(1, 2), y)),
    "rows of classes": lambda: tagger(flat),
    "log-softmax over the classes": lambda: tagger(
        lambda o, y: F.nll_loss(o.log_softmax(2).flatten(0, 1), y.flatten())
    ),
    "one label for each sequence": one_answer,
    "other batches with dropout": lambda: Run(dropped()),
    "one loss for each word": lambda: tagger(of_each),
    "the loss of a random word": lambda: tagger(of_a_random_word),
    "ignored targets of padding": lambda: padded(-100),
    "masked losses of padding": masked,
    "targets marked as ignored": lambda: ignored(flat),
    "marked targets that are masked by hand": lambda: ignored(masked_by_hand),
    "another number for ignored targets": lambda: ignored(
        lambda o, y: F.cross_entropy(o.transpose(1, 2), y.clamp_min(-1), ignore_index=-1)
    ),
    "a small weight for the positive targets of a label": lambda: weighted_labels(0.2),
    "a weight that balances the targets": lambda: weighted(4.0),
    "columns, by hand": lambda: of_numbers(lambda o, y: (o - y).square().mean()),
    "rows of columns": lambda: of_numbers(lambda o, y: F.mse_loss(o[:, 0], y[:, 0])),
    "the nearest target of each output": lambda: of_numbers(
        lambda o, y: (o - y[:, 0]).square().amin(1).mean()
    ),
    "the usual momentum": lambda: Run(normed(0.1)),
    "a small momentum before the end": lambda: Run(normed(0.01)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_the_headline(name):
    torch.manual_seed(0)
    rule, faulty = FAULTS[name]
    assert train(faulty(), STEPS).headline == rule


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_program_is_met_with_silence(name):
    torch.manual_seed(0)
    assert train(HEALTHY[name](), STEPS).alarms == set()


def test_a_mean_that_is_divided_by_the_batch_again_is_judged_in_its_own_unit():
    torch.manual_seed(0)
    history = train(Run(mlp(), lambda o, y: F.cross_entropy(o, y) / 32), 8).history
    assert loss_of_constant(history) == pytest.approx(2.3 / 32, rel=0.05)


def test_a_sum_over_the_samples_is_judged_in_its_own_unit():
    torch.manual_seed(0)
    history = train(Run(mlp(), lambda o, y: F.cross_entropy(o, y, reduction="sum")), 8).history
    assert loss_of_constant(history) == pytest.approx(2.3 * 32, rel=0.05)


OUTSIDE = {
    "sigmoid": lambda o, y: F.binary_cross_entropy_with_logits(o.sigmoid(), y),
    "softmax of labels": lambda o, y: F.binary_cross_entropy(o.softmax(1), y),
    "softmax of classes": lambda o, y: F.cross_entropy(o.softmax(1), y.argmax(1)),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_activation_between_model_and_loss_is_left_out_by_the_fix(name):
    torch.manual_seed(0)
    x = torch.randn(400, 8)
    run = Run(layers(8, 32, 3), OUTSIDE[name], data=(x, (x[:, :3] > 0).float()))
    history = train(run, 8).history
    rules = (SoftmaxBeforeCrossEntropy(), LossTaskMismatch())
    [finding] = [found for rule in rules for found in rule.check(history)]
    assert [*parts(finding.fix)] == [Moment.LOSS]
    names = {"F": F, "nn": nn, "prediction": -torch.ones(4, 3), "y": torch.zeros(4, 3)}
    if name == "softmax of classes":
        names["y"] = torch.zeros(4).long()
    exec(parts(finding.fix)[Moment.LOSS], names)
    expected = math.log(3) if name == "softmax of classes" else math.log(1 + math.exp(-1))
    assert float(names["loss"]) == pytest.approx(expected)
