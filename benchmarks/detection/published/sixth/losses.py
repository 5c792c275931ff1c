"""Losses that do not fit the output or the task, after questions and issues on PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, Optimizer

from detection import data, models
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.fifth.silent import PLACES, corridor, value_of_the_start
from detection.published.parts import CrossEntropy, cnn, mlp
from detection.published.register import published

LOSS = Class.LOSS


@published(
    LOSS,
    "U01",
    "hungtuchen/pytorch-dqn#3, FernandoLpz/Text-Classification-LSTMs-PyTorch#9",
    "loss_task_mismatch loss_plateau",
)
def action_values_against_a_row_of_targets(seed: int, repaired: bool) -> Program:
    model = nn.ModuleDict({"online": mlp(PLACES, 32, 2), "target": mlp(PLACES, 32, 2)})

    def loss(output: Tensor, target: Tensor) -> Tensor:
        now, after = output.chunk(2, 1)
        action, end, _ = target.unbind(1)
        aim = end + 0.9 * (1 - end) * after.detach().max(1).values
        chosen = now.gather(1, action[:, None])
        return ((chosen - (aim[:, None] if repaired else aim)) ** 2).mean()

    program = Program(model, corridor(seed), loss, value_of_the_start, 5e-3)
    program.parameters = lambda model: [*model["online"].parameters()]  # type: ignore[index]
    program.forward = lambda model, x: torch.cat(
        [model["online"](x[:, :PLACES]), model["target"](x[:, PLACES:])],  # type: ignore[index]
        1,
    )

    def copy(step: int, _: Program, __: Optimizer) -> None:
        if step % 20 == 19:
            model["target"].load_state_dict(model["online"].state_dict())

    program.events.append(copy)
    program.steps, program.batch_size, program.loss_falls = 500, 64, False
    return program


@published(
    LOSS,
    "U02",
    "pytorch/examples#117, pytorch/tutorials#1654",
    "output_range_mismatch dead_relu loss_plateau no_gradient",
)
def relu_after_the_last_layer(seed: int, repaired: bool) -> Program:
    model = cnn() if repaired else nn.Sequential(cnn(), nn.ReLU())
    samples = parts.digits(seed, image=True)
    return Program(model, samples, CrossEntropy(), error_rate, 3e-3, Adam, 400)


def many_topics(seed: int) -> Data:
    """Texts of 12 words from a vocabulary of 300 in forty topics."""
    y = torch.randint(40, (4000,))
    share = torch.softmax(2 * torch.randn(40, 300), 1)
    return data.split(torch.multinomial(share[y], 12, True), y, seed)


class TextConvolution(nn.Module):
    """Word vectors, a convolution over time and the largest value of each channel."""

    def __init__(self, words: int, classes: int, output: nn.Module) -> None:
        super().__init__()
        self.words = nn.Embedding(words, 32)
        self.convolution = nn.Conv1d(32, 64, 3, padding=1)
        self.head, self.output = nn.Linear(64, classes), output

    def forward(self, x: Tensor) -> Tensor:
        h = self.convolution(self.words(x).transpose(1, 2)).relu()
        return self.output(self.head(h.amax(2)))  # type: ignore[no-any-return]


@published(
    LOSS,
    "U03",
    "lansinuote/Huggingface_Toturials#6, bkitano/llama-from-scratch#5",
    "softmax_before_cross_entropy output_range_mismatch",
)
def softmax_over_forty_topics(seed: int, repaired: bool) -> Program:
    output = nn.Identity() if repaired else nn.Softmax(1)
    model = TextConvolution(300, 40, output)
    return Program(model, many_topics(seed), CrossEntropy(), error_rate, 3e-3, Adam, 400, 64)


def lesions(seed: int, *, count: int = 800, size: int = 4) -> Data:
    """Images of 16 x 16 with noise and one brighter square; the mask of the square."""
    y = torch.zeros(count, 1, 16, 16)
    for mask, (row, column) in zip(y, torch.randint(17 - size, (count, 2)).tolist(), strict=True):
        mask[0, row : row + size, column : column + size] = 1
    return data.split(1.5 * y + 0.7 * torch.randn(count, 1, 16, 16), y, seed)


def segmenter(width: int = 16) -> nn.Sequential:
    """Four convolutions with a logit for each pixel."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 1, 1),
    )


@published(
    LOSS,
    "U04",
    "hustvl/YOLOP#117, avBuffer/UNet3plus_pth#23, sigmoid before BCEWithLogitsLoss",
    "output_range_mismatch loss_task_mismatch loss_plateau softmax_before_cross_entropy",
)
def sigmoid_before_bce_with_logits_for_masks(seed: int, repaired: bool) -> Program:
    model = segmenter() if repaired else nn.Sequential(segmenter(), nn.Sigmoid())
    loss = nn.BCEWithLogitsLoss()
    return Program(model, lesions(seed), loss, loss, 3e-3, Adam, 300)


def houses(seed: int, *, in_dollars: bool) -> Data:
    """Houses with eight features; their kind, one of three, and their price."""
    x = torch.randn(2400, 8)
    kind = (torch.sin(1.5 * x[:, :3]) + 0.5 * x[:, 3:6] * x[:, 1:4]).argmax(1)
    price = data.standard(x[:, 5] + x[:, 6] * x[:, 7] + 0.3 * torch.randn(2400))
    if in_dollars:
        price = 250_000 + 80_000 * price
    return data.split(x, torch.stack([kind.float(), price], 1), seed)


def kind_and_price(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the kind plus the squared error of the price."""
    kind = functional.cross_entropy(output[:, :3], target[:, 0].long())
    return kind + functional.mse_loss(output[:, 3], target[:, 1])


def wrong_kind(output: Tensor, target: Tensor) -> Tensor:
    """Share of houses of which the kind is wrong."""
    return error_rate(output[:, :3], target[:, 0].long())


@published(
    LOSS,
    "U05",
    "yuanwei1989/landmark-detection#2, vlfeat/matconvnet#1146",
    "target_not_scaled initial_loss_anomaly exploding_gradient bias_drift loss_task_mismatch",
)
def price_in_dollars_next_to_a_class(seed: int, repaired: bool) -> Program:
    samples = houses(seed, in_dollars=not repaired)
    return Program(mlp(8, 64, 64, 4), samples, kind_and_price, wrong_kind, 3e-3, Adam, 500, 64)


class HiddenForecast(nn.Module):
    """A stack of two LSTMs; the hidden state of the second one is the forecast, or a layer's."""

    def __init__(self, *, layer: bool) -> None:
        super().__init__()
        self.first = nn.LSTM(1, 32, batch_first=True)
        self.second = nn.LSTM(32, 32 if layer else 1, batch_first=True)
        self.head = nn.Linear(32, 1) if layer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)[0])[0])  # type: ignore[no-any-return]


@published(
    LOSS,
    "U06",
    "common question, LSTM with hidden_size=1 and no linear layer for values beyond 1",
    "output_range_mismatch saturated_activation loss_plateau",
)
def hidden_state_as_the_forecast(seed: int, repaired: bool) -> Program:
    samples = data.waves(seed)
    return Program(
        HiddenForecast(layer=repaired), samples, nn.MSELoss(), squared_error, 5e-3, Adam, 300
    )


def colour_and_shape(seed: int) -> Data:
    """Twenty features with two labels of five values each."""
    samples = data.clusters(seed)
    return Data(
        samples.x,
        torch.stack([samples.y, samples.x[:, :5].argmax(1)], 1),
        samples.x_test,
        torch.stack([samples.y_test, samples.x_test[:, :5].argmax(1)], 1),
    )


class TwoLabels(nn.Module):
    """A trunk with two heads of five classes; the output has shape (samples, 5, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(20, 64), nn.ReLU())
        self.colour, self.shape = nn.Linear(64, 5), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.trunk(x)
        return torch.stack([self.colour(h), self.shape(h)], 2)


@published(
    LOSS,
    "U07",
    "common question, copied line computes both losses from the first head",
    "no_gradient parameter_not_updated loss_task_mismatch",
)
def both_losses_of_the_first_head(seed: int, repaired: bool) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        first = functional.cross_entropy(output[..., 0], target[:, 0])
        second = functional.cross_entropy(output[..., 1 if repaired else 0], target[:, 1])
        return first + second

    def wrong(output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(1) != target).float().mean()

    return Program(TwoLabels(), colour_and_shape(seed), loss, wrong, 3e-3, Adam, 300)


@published(
    LOSS,
    "U08",
    "common question, tanh at the end of a regression network with standardised targets",
    "output_range_mismatch saturated_activation loss_plateau",
)
def tanh_on_a_standardised_target(seed: int, repaired: bool) -> Program:
    model = models.ResMLP(10, 1)
    full = model if repaired else nn.Sequential(model, nn.Tanh())
    return Program(full, data.friedman(seed), nn.MSELoss(), squared_error, 2e-3, Adam, 400)
