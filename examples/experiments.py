"""Six comparisons with a known outcome: initialisations and losses by short trainings.

pip install 'trainvitals[torch,demo]'; python examples/experiments.py [NAME ...]
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import trainvitals
from trainvitals.experiments import Result


def digits() -> tuple[Tensor, Tensor]:
    """Return handwritten digits: inputs (1797, 64) with mean 0 and deviation 1, classes (1797,)."""
    found = load_digits()
    inputs = torch.tensor(found.data, dtype=torch.float32)
    return (inputs - inputs.mean()) / inputs.std(), torch.tensor(found.target)


def stack(depth: int, nonlinearity: type[nn.Module]) -> nn.Sequential:
    """Return `depth` hidden layers of 64 units, and 10 logits."""
    hidden = [m for _ in range(depth) for m in (nn.Linear(64, 64), nonlinearity())]
    return nn.Sequential(*hidden, nn.Linear(64, 10))


def glorot(model: nn.Module) -> None:
    """Initialise with Glorot's variance and gain 1, biases 0."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)


class OneHotMSE(nn.Module):
    """The mean squared error between the outputs themselves and one-hot targets."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss of outputs (n, classes) and class indices (n,)."""
        one_hot = nn.functional.one_hot(target, prediction.shape[1])
        return nn.functional.mse_loss(prediction, one_hot.to(prediction.dtype))


def initialisations() -> Result:
    """Classify digits with four ReLU layers under the six built-in initialisations.

    Outcome: Xavier and He are not told apart. PyTorch's default shrinks the signal and is slower.
    Zeros do not learn: all units of a layer get the same gradient (TV301).
    """
    return trainvitals.experiment(
        lambda: stack(4, nn.ReLU), digits(), "initialisation", steps=60, robustness=False
    )


def outliers() -> Result:
    """Fit a line when a tenth of the training targets is far too high; compare on clean targets.

    Outcome: Huber beats MSE, and MAE beats both. MSE fits the mean, which the outliers move.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(800, 10, generator=generator)
    clean = inputs @ torch.randn(10, generator=generator)
    clean += 0.1 * torch.randn(800, generator=generator)
    wrong = torch.rand(800, generator=generator) < 0.1
    targets = torch.where(wrong, clean + 40, clean)
    return trainvitals.experiment(
        lambda: nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1)),
        (inputs[:600], targets[:600]),
        "loss",
        held_out=(inputs[600:], clean[600:]),
        steps=200,
        learning_rate=0.01,
        robustness=False,
    )


def spam() -> Result:
    """Recognise unwanted messages by the words in them, with SGD.

    Outcome: BCE learns faster. The gradient of MSE through the sigmoid has a factor p(1 − p), which
    is at most a quarter.
    """
    generator = torch.Generator().manual_seed(0)
    words, messages = 300, 1200
    usual = 0.1 * torch.rand(words, generator=generator) ** 3
    typical = torch.randperm(words, generator=generator)[:40]
    unwanted = usual.index_fill(0, typical, 0.1)
    labels = (torch.rand(messages, generator=generator) < 0.4).float()
    rates = torch.where(labels[:, None] > 0, unwanted, usual)
    counts = (torch.rand(messages, words, generator=generator) < rates).float()
    return trainvitals.experiment(
        lambda: nn.Sequential(nn.Linear(words, 32), nn.ReLU(), nn.Linear(32, 1)),
        (counts, labels),
        "loss",
        steps=150,
        learning_rate=0.3,
        optimizer=torch.optim.SGD,
        robustness=False,
    )


def deep_relu() -> Result:
    """Classify digits with twenty ReLU layers under Glorot, He and zeros.

    Outcome: He beats Glorot. A ReLU passes half of the second moment; with gain 1 the signal
    shrinks by √2 per layer, a thousandfold over twenty layers. He's gain √2 keeps it.
    """
    choices = {"glorot": glorot, "he": "he_normal", "zeros": "zeros"}
    return trainvitals.experiment(
        lambda: stack(20, nn.ReLU), digits(), choices, steps=60, robustness=False
    )


def deep_sigmoid() -> Result:
    """Classify digits with twenty sigmoid layers under Glorot and He.

    Outcome: neither learns. A sigmoid multiplies the gradient by at most a quarter, and no
    initialisation of this size repairs it (TV101).
    """
    choices = {"glorot": glorot, "he": "he_normal"}
    return trainvitals.experiment(
        lambda: stack(20, nn.Sigmoid), digits(), choices, steps=60, seeds=3, robustness=False
    )


def calibration() -> Result:
    """Classify digits with the cross entropy, and with MSE on one-hot targets.

    Outcome: the accuracies are close (MSE leads by two points), and the probabilities of the cross
    entropy are far better calibrated: MSE fits outputs from 0 to 1, whose softmax is nearly flat.
    """
    choices = {"cross_entropy": nn.CrossEntropyLoss(), "mse": OneHotMSE()}
    return trainvitals.experiment(
        lambda: stack(2, nn.ReLU), digits(), choices, steps=150, robustness=False
    )


EXAMPLES = (initialisations, outliers, spam, deep_relu, deep_sigmoid, calibration)


if __name__ == "__main__":
    for example in EXAMPLES:
        if len(sys.argv) == 1 or example.__name__ in sys.argv[1:]:
            print(f"{example.__name__}: {example.__doc__}\n{example()}\n")
