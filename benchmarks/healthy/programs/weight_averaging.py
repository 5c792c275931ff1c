"""SWA: SGD with a constant rate, an average of the weights, and BatchNorm updated at the end."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

from healthy.data import digits
from healthy.program import Program, Watch


def vgg(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width),
        nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(), nn.Linear(8 * width, 64), nn.ReLU(True),
        nn.Dropout(), nn.Linear(64, 64), nn.ReLU(True),
        nn.Linear(64, 10),
    )  # fmt: skip


def train(
    watch: Watch, seed: int, width: int = 16, swa_lr: float = 0.05, batch_size: int = 32
) -> float:
    torch.manual_seed(seed)
    x_train, y_train, x_test, y_test = digits()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x_train, y_train), batch_size=batch_size, shuffle=True
    )
    model = vgg(width)
    swa_model = AveragedModel(model)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    swa_scheduler = SWALR(optimizer, swa_lr=swa_lr, anneal_epochs=1)
    monitor = watch(model, optimizer)
    for epoch in range(12):
        model.train()
        for images, target in loader:
            output = model(images)
            loss = criterion(output, target)
            monitor.loss(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch >= 6:
            swa_model.update_parameters(model)
            swa_scheduler.step()
        else:
            scheduler.step()
    update_bn(loader, swa_model)
    swa_model.eval()
    with torch.no_grad():
        return float((swa_model(x_test).argmax(1) == y_test).float().mean())


PROGRAM = Program(
    train,
    metric="test accuracy of the averaged weights, chance 0.1",
    healthy=0.9,
    settings=({"seed": 0}, {"seed": 1, "width": 24, "batch_size": 64}, {"seed": 2, "swa_lr": 0.02}),
)
