"""Parts of the training loop that are missing or connected incorrectly."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from detection.bases import error_rate
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import CrossEntropy, cnn, mlp, sgd
from detection.published.register import published


@published(Class.WIRING, "F066", "TheDeepChecker, missing_infer_batchnorm", "wrong_train_eval_mode")
def batch_norm_in_eval_mode(seed: int, repaired: bool) -> Program:
    samples, model = parts.digits(seed, image=True), cnn(norm=True)
    program = Program(model, samples, CrossEntropy(), error_rate, 0.1, sgd(), 100, 64)
    program.train_mode = repaired
    return program


@published(
    Class.WIRING,
    "F112",
    "TrainCheck, stackoverflow-60335387",
    "missing_zero_grad loss_divergence loss_oscillation",
)
def no_zero_grad(seed: int, repaired: bool) -> Program:
    samples, lr = parts.digits(seed), 1e-3 if repaired else 1e-4
    program = Program(
        mlp(64, 64, 10), samples, CrossEntropy(), error_rate, lr, steps=300, batch_size=64
    )
    program.zero_grad = repaired
    return program


class TwoParts(nn.Module):
    """Two networks in series; `cut` detaches the output of the first."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.first, self.second, self.cut = mlp(64, 64, 32), mlp(32, 32, 10), cut

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.first(x))
        return self.second(hidden.detach() if self.cut else hidden)  # type: ignore[no-any-return]


@published(Class.WIRING, "F114", "PyTorch forum", "no_gradient parameter_not_updated")
def detached_between_two_parts(seed: int, repaired: bool) -> Program:
    samples, model = parts.digits(seed), TwoParts(not repaired)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-3, steps=100, batch_size=64)


@published(Class.WIRING, "F116", "PyTorch forum", "parameter_not_updated loss_plateau")
def head_replaced_after_the_optimizer(seed: int, repaired: bool) -> Program:
    samples, model = parts.digits(seed), mlp(64, 64, 10)
    before = [*model.parameters()]
    model[-1] = nn.Linear(64, 10)
    program = Program(model, samples, CrossEntropy(), error_rate, 1e-3, steps=200, batch_size=64)
    if not repaired:
        program.parameters = lambda _: before
    return program


class RowAttention(nn.Module):
    """Self-attention over the rows of an image; `always` applies dropout in evaluation too."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.embed, self.head, self.always = nn.Linear(8, 32), nn.Linear(32, 10), always

    def forward(self, x: Tensor) -> Tensor:
        query = self.embed(x)
        weights = functional.softmax(query @ query.transpose(1, 2) / 32**0.5, -1)
        weights = functional.dropout(weights, 0.5, training=self.always or self.training)
        return self.head((weights @ query).mean(1))  # type: ignore[no-any-return]


@published(Class.WIRING, "F120", "TrainCheck, transformers-33844", "wrong_train_eval_mode")
def dropout_active_in_evaluation(seed: int, repaired: bool) -> Program:
    samples, model = parts.digits(seed), RowAttention(not repaired)
    program = Program(model, samples, CrossEntropy(), error_rate, 1e-2, steps=400, batch_size=64)
    program.with_inputs(lambda x: x.reshape(-1, 8, 8))
    program.validate_every = 20
    return program
