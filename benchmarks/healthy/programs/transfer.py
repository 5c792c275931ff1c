"""Transfer learning: a head on a frozen backbone, which is then unfrozen at a lower rate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from healthy.data import digits
from healthy.program import Program, Watch


class Net(nn.Module):
    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x))


def pretrain(model: Net, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(6):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()


def train(
    watch: Watch, seed: int, width: int = 16, unfreeze_at: int = 8, batch_size: int = 32
) -> float:
    torch.manual_seed(seed)
    x_train, y_train, x_test, y_test = digits()
    source = y_train < 5
    model = Net(5, width)
    pretrain(model, x_train[source], y_train[source])

    # The other five digits, with 300 images.
    x, y = x_train[~source][:300], y_train[~source][:300] - 5
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.fc = nn.Linear(model.fc.in_features, 5)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.02, momentum=0.9)
    monitor = watch(model, optimizer)
    epochs = 30
    for epoch in range(epochs):
        if epoch == unfreeze_at:
            for parameter in model.features.parameters():
                parameter.requires_grad = True
            optimizer.add_param_group({"params": model.features.parameters(), "lr": 0.002})
        model.train()
        for rows in torch.randperm(len(x)).split(batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[rows]), y[rows])
            monitor.loss(loss)
            loss.backward()
            optimizer.step()
    model.eval()
    rows = y_test >= 5
    with torch.no_grad():
        return float((model(x_test[rows]).argmax(1) == y_test[rows] - 5).float().mean())


PROGRAM = Program(
    train,
    metric="test accuracy on the new classes, chance 0.2",
    healthy=0.9,
    settings=({"seed": 0}, {"seed": 1, "width": 24}, {"seed": 2, "unfreeze_at": 15}),
)
