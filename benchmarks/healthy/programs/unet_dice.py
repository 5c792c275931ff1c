"""A U-Net segments rare bright discs in noise; the loss is 1 − Dice alone."""

from __future__ import annotations

import torch
from torch import nn

from healthy.program import Program, Watch

SIDE = 24


class DoubleConv(nn.Sequential):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(
            nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False),
            nn.InstanceNorm2d(fan_out, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
            nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False),
            nn.InstanceNorm2d(fan_out, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )


class UNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inc = DoubleConv(1, width)
        self.down1 = DoubleConv(width, 2 * width)
        self.down2 = DoubleConv(2 * width, 4 * width)
        self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.conv1 = DoubleConv(4 * width, 2 * width)
        self.up2 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.conv2 = DoubleConv(2 * width, width)
        self.outc = nn.Conv2d(width, 1, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x1 = self.inc(x)
        x2 = self.down1(self.pool(x1))
        x3 = self.down2(self.pool(x2))
        x = self.conv1(torch.cat([x2, self.up1(x3)], 1))
        return self.outc(self.conv2(torch.cat([x1, self.up2(x)], 1)))


class DiceLoss(nn.Module):
    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__()
        self.smooth = smooth

    def forward(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        p, m = logits.sigmoid().flatten(1), masks.flatten(1)
        overlap = 2 * (p * m).sum(1) + self.smooth
        return (1 - overlap / (p.sum(1) + m.sum(1) + self.smooth)).mean()


def scans(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    axis = torch.arange(SIDE).float()
    x, y = torch.rand(n, 1, 1) * 16 + 4, torch.rand(n, 1, 1) * 16 + 4
    radius = torch.rand(n, 1, 1) * 2 + 2
    mask = (((axis[None, None] - x) ** 2 + (axis[None, :, None] - y) ** 2) < radius**2).float()
    return (0.8 * mask + 0.5 * torch.randn(n, SIDE, SIDE))[:, None], mask[:, None]


def train(
    watch: Watch, seed: int, width: int = 8, batch_size: int = 8, momentum: float = 0.99
) -> float:
    torch.manual_seed(seed)
    net = UNet(width)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=1e-2, momentum=momentum, nesterov=True, weight_decay=3e-5
    )
    steps = 260
    poly = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    criterion = DiceLoss()
    monitor = watch(net, optimizer)
    for _ in range(steps):
        images, masks = scans(batch_size)
        loss = criterion(net(images), masks)
        optimizer.zero_grad(set_to_none=True)
        monitor.loss(loss)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 12)
        optimizer.step()
        poly.step()
    net.eval()
    images, masks = scans(100)
    with torch.no_grad():
        found = (net(images) > 0).float()
    return float(2 * (found * masks).sum() / (found.sum() + masks.sum()))


PROGRAM = Program(
    train,
    metric="Dice coefficient on test images",
    healthy=0.75,
    settings=({"seed": 0}, {"seed": 1, "width": 12}, {"seed": 2, "batch_size": 4}),
)
