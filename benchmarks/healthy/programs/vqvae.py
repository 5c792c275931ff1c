"""A VQ-VAE on digits: a codebook with a straight-through gradient and a commitment loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from healthy.data import digits
from healthy.program import Program, Watch


class VectorQuantizer(nn.Module):
    def __init__(self, codes: int, width: int, beta: float = 0.25) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)
        self.embedding.weight.data.uniform_(-1 / codes, 1 / codes)
        self.beta = beta

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        indices = torch.cdist(flat, self.embedding.weight).argmin(1)
        rows = z.permute(0, 2, 3, 1).shape
        quantized = self.embedding(indices).view(rows).permute(0, 3, 1, 2)
        loss = F.mse_loss(quantized, z.detach()) + self.beta * F.mse_loss(quantized.detach(), z)
        return z + (quantized - z).detach(), loss


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(width // 2, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class VQVAE(nn.Module):
    def __init__(self, width: int, codes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 4, 2, 1), nn.ReLU(), Residual(width), nn.Conv2d(width, 16, 1)
        )
        self.quantizer = VectorQuantizer(codes, 16)
        self.decoder = nn.Sequential(
            nn.Conv2d(16, width, 3, padding=1),
            Residual(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 4, 2, 1),
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        quantized, loss = self.quantizer(self.encoder(x))
        return self.decoder(quantized), loss


def train(watch: Watch, seed: int, width: int = 32, codes: int = 64, batch_size: int = 64) -> float:
    torch.manual_seed(seed)
    x_train, _, x_test, _ = digits()
    variance = x_train.var()
    model = VQVAE(width, codes)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, amsgrad=True)
    monitor = watch(model, optimizer)

    for _ in range(18):
        for x in x_train[torch.randperm(len(x_train))].split(batch_size):
            optimizer.zero_grad()
            decoded, vq_loss = model(x)
            recon_error = F.mse_loss(decoded, x) / variance
            loss = monitor.loss(recon_error + vq_loss)
            loss.backward()
            optimizer.step()

    model.eval()
    with torch.no_grad():
        return float(F.mse_loss(model(x_test)[0], x_test) / x_test.var())


PROGRAM = Program(
    train,
    metric="squared error of test images over their variance",
    healthy=0.35,
    lower_is_better=True,
    settings=(
        {"seed": 0},
        {"seed": 1, "width": 48, "codes": 128},
        {"seed": 2, "batch_size": 32},
    ),
)
