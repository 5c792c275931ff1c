"""A convolutional GAN on digits: BCE, one label of 0.9, two optimizers with beta1 = 0.5."""

from __future__ import annotations

import torch
from torch import nn

from healthy.data import coverage, digits
from healthy.program import Program, Watch

NOISE = 32


def weights_init(m: nn.Module) -> None:
    name = type(m).__name__
    if name.startswith("Conv"):
        nn.init.normal_(m.weight, 0.0, 0.05)
    elif name.startswith("BatchNorm"):
        nn.init.normal_(m.weight, 1.0, 0.02)
        nn.init.zeros_(m.bias)


class Generator(nn.Module):
    def __init__(self, ngf: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(NOISE, ngf * 2, 2, 1, 0, bias=False),
            nn.BatchNorm2d(ngf * 2),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf, 1, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.main(z)


class Discriminator(nn.Module):
    def __init__(self, ndf: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(1, ndf, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, 1, 2, 1, 0, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.main(x).view(-1)


def train(watch: Watch, seed: int, batch_size: int = 64, ngf: int = 32) -> float:
    torch.manual_seed(seed)
    real_images, _, test_images, _ = digits()
    real_images = real_images * 2 - 1
    net_g, net_d = Generator(ngf), Discriminator(ngf)
    net_g.apply(weights_init)
    net_d.apply(weights_init)
    criterion = nn.BCELoss()
    optimizer_d = torch.optim.Adam(net_d.parameters(), lr=1e-3, betas=(0.5, 0.999))
    optimizer_g = torch.optim.Adam(net_g.parameters(), lr=1e-3, betas=(0.5, 0.999))
    monitor = watch({"discriminator": net_d, "generator": net_g}, [optimizer_d, optimizer_g])

    for _ in range(28):
        for real in real_images[torch.randperm(len(real_images))].split(batch_size):
            # (1) The discriminator: real images, then generated ones.
            net_d.zero_grad()
            label = torch.full((len(real),), 0.9)
            err_real = criterion(net_d(real), label)
            err_real.backward()
            fake = net_g(torch.randn(len(real), NOISE, 1, 1))
            err_fake = criterion(net_d(fake.detach()), label.fill_(0.0))
            err_fake.backward()
            monitor.loss(err_real + err_fake)
            optimizer_d.step()
            # (2) The generator: its images should be taken for real ones.
            net_g.zero_grad()
            criterion(net_d(fake), label.fill_(1.0)).backward()
            optimizer_g.step()

    net_g.eval()
    with torch.no_grad():
        made = (net_g(torch.randn(1000, NOISE, 1, 1)) + 1) / 2
    return coverage(made.flatten(1), test_images.flatten(1))


PROGRAM = Program(
    train,
    metric="share of test images near a generated image",
    healthy=0.5,
    settings=(
        {"seed": 0},
        {"seed": 1, "batch_size": 48},
    ),
)
