"""A sparse autoencoder with an overcomplete code, an L1 penalty and decoder columns of length 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from healthy.program import Program, Watch

DIMENSION, FEATURES = 32, 64


class SparseAutoencoder(nn.Module):
    def __init__(self, codes: int) -> None:
        super().__init__()
        self.b_dec = nn.Parameter(torch.zeros(DIMENSION))
        self.W_dec = nn.Parameter(F.normalize(torch.randn(codes, DIMENSION), dim=1))
        self.W_enc = nn.Parameter(self.W_dec.detach().T.clone())
        self.b_enc = nn.Parameter(torch.zeros(codes))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        acts = F.relu((x - self.b_dec) @ self.W_enc + self.b_enc)
        return acts @ self.W_dec + self.b_dec, acts

    @torch.no_grad()
    def make_decoder_weights_unit_norm(self) -> None:
        self.W_dec.data = F.normalize(self.W_dec.data, dim=1)


def superposed(n: int, dictionary: torch.Tensor) -> torch.Tensor:
    """Return sums of about three of the features, with positive strengths."""
    active = (torch.rand(n, FEATURES) < 3 / FEATURES).float()
    return (active * (0.5 + torch.rand(n, FEATURES))) @ dictionary


def train(
    watch: Watch, seed: int, codes: int = 128, l1: float = 0.2, batch_size: int = 256
) -> float:
    torch.manual_seed(seed)
    dictionary = F.normalize(torch.randn(FEATURES, DIMENSION), dim=1)
    sae = SparseAutoencoder(codes)
    optimizer = torch.optim.Adam(sae.parameters(), lr=2e-3, betas=(0.9, 0.99))
    monitor = watch(sae, optimizer)
    for _ in range(1500):
        x = superposed(batch_size, dictionary)
        x_hat, acts = sae(x)
        loss = (x_hat - x).pow(2).sum(1).mean() + l1 * acts.abs().sum(1).mean()
        optimizer.zero_grad()
        monitor.loss(loss)
        loss.backward()
        optimizer.step()
        sae.make_decoder_weights_unit_norm()
    # A feature is recovered if a column of the decoder points to it.
    similarity = dictionary @ F.normalize(sae.W_dec.detach(), dim=1).T
    return float((similarity.amax(1) > 0.9).float().mean())


PROGRAM = Program(
    train,
    metric="share of true features with a cosine over 0.9 to a column of the decoder",
    healthy=0.6,
    settings=({"seed": 0}, {"seed": 1, "codes": 192}, {"seed": 2, "l1": 0.4}),
)
