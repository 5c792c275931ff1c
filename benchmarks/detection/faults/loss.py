"""Loss: the loss does not fit the task, the model's output or the targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import SGD

from detection.case import ANYWHERE, Class, Places
from detection.faults.register import fault
from detection.program import Program, append, output_layer

LOSS = Class.LOSS


def head_of(p: Program) -> Places:
    """Return the output layer and the run as acceptable places."""
    name = output_layer(p.model)[0]
    return (name, f"{name}.*", "")


def at_head(p: Program, module: nn.Module) -> Places:
    """Apply `module` to the model's output."""
    places = head_of(p)
    append(p.model, output_layer(p.model)[0], module)
    return places


SOFTMAX = "softmax_before_cross_entropy output_range_mismatch"


@fault(
    LOSS,
    SOFTMAX,
    "cnn-digits resnet-shapes",
    module=lambda: nn.Softmax(-1),
    name="softmax_before_cross_entropy",
)
@fault(
    LOSS,
    SOFTMAX + " loss_task_mismatch",
    "mlp-digits tanh-rings",
    module=lambda: nn.Softmax(0),
    name="softmax_over_the_batch",
)
@fault(
    LOSS,
    "output_range_mismatch loss_task_mismatch",
    "lstm-cue resmlp-clusters",
    module=nn.Sigmoid,
    name="sigmoid_before_cross_entropy",
)
@fault(
    LOSS,
    "output_range_mismatch dead_relu",
    "autoencoder-digits gru-waves",
    module=nn.ReLU,
    name="relu_on_regression_output",
)
@fault(
    LOSS,
    "output_range_mismatch saturated_activation",
    "autoencoder-digits gru-waves",
    module=nn.Sigmoid,
    name="sigmoid_on_regression_output",
)
def activation_on_output(p: Program, module: type[nn.Module]) -> Places:
    return at_head(p, module())


def large_targets(p: Program) -> None:
    """Targets with standard deviation 4, which a linear output reaches."""
    p.with_targets(lambda y: 4 * y)


@fault(
    LOSS,
    "output_range_mismatch saturated_activation target_not_scaled",
    "mlp-quadratic mlp-friedman",
    given=large_targets,
)
def tanh_on_output_for_large_targets(p: Program) -> Places:
    return at_head(p, nn.Tanh())


@fault(
    LOSS,
    "loss_task_mismatch output_range_mismatch loss_divergence",
    "lstm-cue tanh-rings",
)
def nll_loss_on_logits(p: Program) -> Places:
    p.loss = nn.NLLLoss()
    return head_of(p)


@fault(
    LOSS,
    "loss_task_mismatch output_range_mismatch softmax_before_cross_entropy",
    "cnn-digits resmlp-clusters",
)
def nll_loss_on_probabilities(p: Program) -> Places:
    p.loss = nn.NLLLoss()
    return at_head(p, nn.Softmax(-1))


@fault(LOSS, "loss_task_mismatch", "mlp-friedman mlp-quadratic")
def broadcast_of_column_and_row(p: Program) -> Places:
    p.collate = lambda _, x, y: (x, y.squeeze(1))
    return head_of(p)


@fault(LOSS, "loss_task_mismatch", "mlp-digits tanh-rings")
def squared_error_on_class_numbers(p: Program) -> Places:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return ((output - target[:, None].float()) ** 2).mean()

    p.loss = loss
    return head_of(p)


def plain_sgd(p: Program) -> None:
    """Plain SGD with a rate that fits a mean loss."""
    p.optimizer, p.lr = SGD, 0.1


@fault(
    LOSS,
    "loss_task_mismatch learning_rate_too_high initial_loss_anomaly exploding_gradient",
    "mlp-digits resmlp-clusters",
    given=plain_sgd,
)
def summed_cross_entropy(p: Program) -> Places:
    p.loss = nn.CrossEntropyLoss(reduction="sum")
    return ANYWHERE


@fault(
    LOSS,
    "loss_task_mismatch learning_rate_too_high initial_loss_anomaly exploding_gradient",
    "mlp-friedman mlp-quadratic",
    given=plain_sgd,
)
def summed_squared_error(p: Program) -> Places:
    p.loss = nn.MSELoss(reduction="sum")
    return ANYWHERE


@fault(
    LOSS,
    "loss_divergence loss_task_mismatch",
    "mlp-digits transformer-chain",
)
def sign_error(p: Program) -> None:
    inner = p.loss
    p.loss = lambda output, target: -inner(output, target)


@fault(
    LOSS,
    "loss_task_mismatch softmax_before_cross_entropy output_range_mismatch",
    "mlp-digits resmlp-clusters",
)
def binary_loss_on_softmax(p: Program) -> Places:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        wanted = nn.functional.one_hot(target, output.shape[1]).float()
        return nn.functional.binary_cross_entropy_with_logits(output, wanted)

    p.loss = loss
    return at_head(p, nn.Softmax(-1))


@fault(
    LOSS,
    "learning_rate_too_low loss_task_mismatch",
    "cnn-digits tanh-rings",
    name="loss_divided_twice",
)
def divided(p: Program) -> None:
    inner = p.loss
    p.loss = lambda output, target: inner(output, target) / len(target) ** 2


@fault(
    LOSS, "loss_task_mismatch no_supervision", "transformer-chain", name="loss_of_first_token_only"
)
def first_token_only(p: Program) -> None:
    inner = p.loss
    p.loss = lambda output, target: inner(output[:, :1], target[:, :1])


@fault(LOSS, "loss_task_mismatch label_noise", "transformer-chain gru-waves")
def target_shifted_by_five(p: Program) -> None:
    p.with_targets(lambda y: torch.roll(y, -5, 1), test=False)
