"""BYOL on digits: a predictor, an averaged target network and no negative samples."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from healthy.data import digits
from healthy.program import Program, Watch


def mlp(fan_in: int, hidden: int, fan_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(fan_in, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True),
        nn.Linear(hidden, fan_out),
    )  # fmt: skip


class Encoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * width, 64),
        )  # fmt: skip
        self.projector = mlp(64, 128, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projector(self.backbone(x))


class BYOL(nn.Module):
    def __init__(self, width: int, tau: float) -> None:
        super().__init__()
        self.online = Encoder(width)
        self.target = copy.deepcopy(self.online)
        for p in self.target.parameters():
            p.requires_grad = False
        self.predictor = mlp(32, 128, 32)
        self.tau = tau

    @torch.no_grad()
    def update_target(self) -> None:
        for o, t in zip(self.online.parameters(), self.target.parameters(), strict=True):
            t.data = self.tau * t.data + (1 - self.tau) * o.data

    def forward(self, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target_one, target_two = self.target(one), self.target(two)
        a = F.cosine_similarity(self.predictor(self.online(one)), target_two.detach())
        b = F.cosine_similarity(self.predictor(self.online(two)), target_one.detach())
        return (4 - 2 * a - 2 * b).mean()


def augment(x: torch.Tensor) -> torch.Tensor:
    """Turn, shift and scale each image by random amounts, and add noise."""
    angle = (torch.rand(len(x)) - 0.5) * 0.6
    size = 0.85 + 0.3 * torch.rand(len(x))
    cos, sin = angle.cos() * size, angle.sin() * size
    shift = (torch.rand(len(x), 2) - 0.5) * 0.6
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False) + 0.05 * torch.randn_like(x)


def neighbours_accuracy(encoder: nn.Module) -> float:
    """Return the accuracy on distorted test images with the features of 300 labelled ones."""
    x_train, y_train, x_test, y_test = digits()
    encoder.eval()
    with torch.no_grad():
        known = F.normalize(encoder(x_train[:300]))
        asked = F.normalize(encoder(augment(x_test)))
    votes = y_train[(asked @ known.T).topk(5, dim=1).indices]
    return float((votes.mode(1).values == y_test).float().mean())


def train(
    watch: Watch, seed: int, width: int = 12, tau: float = 0.98, batch_size: int = 128
) -> float:
    torch.manual_seed(seed)
    images = digits()[0]
    learner = BYOL(width, tau)
    opt = torch.optim.Adam((p for p in learner.parameters() if p.requires_grad), lr=1e-3)
    monitor = watch(learner, opt)
    for _ in range(30):
        for batch in images[torch.randperm(len(images))].split(batch_size):
            loss = learner(augment(batch), augment(batch))
            monitor.loss(loss)
            opt.zero_grad()
            loss.backward()
            opt.step()
            learner.update_target()
    return neighbours_accuracy(learner.online.backbone)


PROGRAM = Program(
    train,
    metric="accuracy of nearest neighbours on distorted images, 0.43 untrained",
    healthy=0.6,
    settings=({"seed": 0}, {"seed": 1, "width": 16}, {"seed": 2, "tau": 0.95, "batch_size": 64}),
)
