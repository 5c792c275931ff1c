"""Values that are not finite, after questions and issues on PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from detection import data
from detection.bases import error_rate
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.fourth.graphs import CLASSES, FEATURES, community, community_error
from detection.published.parts import CrossEntropy, cnn, mlp
from detection.published.register import published

NUMERIC = Class.NUMERIC


def focal(output: Tensor, target: Tensor, power: float) -> Tensor:
    """Focal loss after Lin et al.: cross-entropy times a power of the probability missed."""
    log = functional.log_softmax(output, 1).gather(1, target[:, None])
    return -((1 - log.exp()) ** power * log).mean()


@published(
    NUMERIC,
    "T40",
    "kaidic/LDAM-DRW#17, clcarwin/focal_loss_pytorch#13",
    "non_finite_value",
)
def focal_loss_with_a_power_of_one_half(seed: int, repaired: bool) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return focal(output, target, 2.0 if repaired else 0.5)

    samples = parts.digits(seed)
    return Program(mlp(64, 256, 256, 10), samples, loss, error_rate, 5e-3, Adam, 400, 64)


class Towers(nn.Module):
    """Cosines between a description and all pictures of the batch, over a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.picture = mlp(12, 64, 16), mlp(20, 64, 16)

    def forward(self, x: Tensor) -> Tensor:
        text = functional.normalize(self.text(x[:, :12]), dim=1)
        picture = functional.normalize(self.picture(x[:, 12:]), dim=1)
        return text @ picture.T / 0.01


def described(seed: int) -> Data:
    """Pairs of a description and a picture of the same hidden thing."""
    thing = torch.randn(2000, 8)
    text, picture = thing @ torch.randn(8, 12), thing @ torch.randn(8, 20)
    x = torch.cat([text, picture], 1) / 3 + 0.2 * torch.randn(2000, 32)
    return data.split(x, torch.zeros(2000), seed)


def wrong_pictures(output: Tensor, _: Tensor) -> Tensor:
    """Share of descriptions for which another picture is closer."""
    return error_rate(output, torch.arange(len(output)))


@published(
    NUMERIC,
    "T41",
    "pytorch/pytorch#1620, logarithm of a softmax",
    "non_finite_value",
)
def logarithm_of_a_softmax(seed: int, repaired: bool) -> Program:
    def loss(output: Tensor, _: Tensor) -> Tensor:
        log = output.log_softmax(1) if repaired else output.softmax(1).log()
        return -log.diagonal().mean()

    return Program(Towers(), described(seed), loss, wrong_pictures, 2e-3, Adam, 250, 64)


class Boxes(nn.Module):
    """Distances of the four sides of a box from the centre of the image, from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.body = cnn(4, size=16)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).sigmoid()  # type: ignore[no-any-return]


def boxes(seed: int) -> Data:
    """Images with a bright box; its sides as left, top, right and bottom, from 0 to 1."""
    corner, size = torch.randint(0, 9, (900, 2)), torch.randint(3, 8, (900, 2))
    x = 0.2 * torch.randn(900, 1, 16, 16)
    for image, (row, column), (height, width) in zip(
        x, corner.tolist(), size.tolist(), strict=True
    ):
        image[0, row : row + height, column : column + width] += 1
    return data.split(x, torch.cat([corner, corner + size], 1).float() / 16, seed)


def overlap(output: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of boxes."""
    low, high = torch.maximum(output, target)[:, :2], torch.minimum(output, target)[:, 2:]
    common = (high - low).clamp_min(0).prod(1)
    area, other = ((box[:, 2:] - box[:, :2]).clamp_min(0).prod(1) for box in (output, target))
    return common / (area + other - common)


def missed_overlap(output: Tensor, target: Tensor) -> Tensor:
    """One minus the mean intersection over union; boxes that are not finite miss all of it."""
    return (1 - overlap(output, target).nan_to_num(0)).mean()


@published(
    NUMERIC,
    "T42",
    "common question, -log(IoU) of boxes that do not overlap",
    "non_finite_value",
)
def logarithm_of_an_empty_intersection(seed: int, repaired: bool) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        if not repaired:
            return -overlap(output, target).log().mean()
        distance = functional.smooth_l1_loss(output, target)
        return distance - overlap(output, target).clamp_min(1e-3).log().mean()

    return Program(Boxes(), boxes(seed), loss, missed_overlap, 2e-3, Adam, 250)


class Sage(nn.Module):
    """Two layers of the own features and the mean of the neighbours', divided by the degree."""

    def __init__(self, *, safe: bool) -> None:
        super().__init__()
        self.inputs = nn.Linear(2 * FEATURES, 32)
        self.head, self.safe = nn.Linear(64, CLASSES), safe

    def forward(self, x: Tensor) -> Tensor:
        h, edges = x[..., :FEATURES], x[..., FEATURES:]
        degree = edges.sum(-1, keepdim=True)
        if self.safe:
            degree = degree.clamp_min(1)
        h = self.inputs(torch.cat([h, edges @ h / degree], 2)).relu()
        return self.head(torch.cat([h, edges @ h / degree], 2)).transpose(1, 2)  # type: ignore[no-any-return]


def sparse_community(seed: int) -> Data:
    """Graphs in groups without an edge from a node to itself; a few nodes have no edge."""
    samples = community(seed)
    for x in (samples.x, samples.x_test):
        edges = x[..., FEATURES:]
        edges.mul_(1 - torch.eye(edges.shape[1]))
        alone = torch.rand(edges.shape[:2]) < 0.001
        edges[alone] = 0
        edges.transpose(1, 2)[alone] = 0
    return samples


def node_errors(output: Tensor, target: Tensor) -> Tensor:
    """Share of nodes in the wrong class, or 1 for outputs that are not finite."""
    return community_error(output, target) if output.isfinite().all() else torch.tensor(1.0)


@published(
    NUMERIC,
    "T43",
    "MrLeeeee/GCN-GAT-and-Graphsage#3",
    "non_finite_value",
)
def divided_by_a_degree_of_zero(seed: int, repaired: bool) -> Program:
    model, samples = Sage(safe=repaired), sparse_community(seed)
    return Program(model, samples, CrossEntropy(), node_errors, 3e-3, Adam, 200, 16)


@published(
    NUMERIC,
    "T44",
    "Lightning-AI/torchmetrics#1029, divergence by hand",
    "non_finite_value",
)
def logarithm_of_a_target_of_zero(seed: int, repaired: bool) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        if repaired:
            return functional.kl_div(output.log_softmax(1), target, reduction="batchmean")
        return (target * (target / output.softmax(1)).log()).sum(1).mean()

    samples = data.rings(seed)
    votes = torch.distributions.Multinomial(8, 0.94 * torch.eye(3)[samples.y] + 0.02)
    samples = Data(samples.x, votes.sample() / 8, samples.x_test, samples.y_test)  # type: ignore[no-untyped-call]
    return Program(mlp(2, 32, 32, 3), samples, loss, error_rate, 5e-3, Adam, 250)
