"""DeepSurv: the partial likelihood of Cox over a sorted batch, with censored times."""

from __future__ import annotations

import torch
from torch import nn

from healthy.program import Program, Watch


class DeepSurv(nn.Module):
    def __init__(self, features: int, hidden: int, drop: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out in ((features, hidden), (hidden, hidden)):
            layers += [
                nn.Linear(fan_in, fan_out), nn.SELU(), nn.BatchNorm1d(fan_out), nn.Dropout(drop)
            ]  # fmt: skip
        self.model = nn.Sequential(*layers, nn.Linear(hidden, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class NegativeLogLikelihood(nn.Module):
    def forward(self, risk: torch.Tensor, time: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
        order = time.argsort(descending=True)
        risk, event = risk[order, 0], event[order]
        log_at_risk = torch.logcumsumexp(risk, 0)
        return -((risk - log_at_risk) * event).sum() / event.sum()


def patients(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (covariates, time, event) with a nonlinear risk; four of ten are censored."""
    x = torch.rand(n, 10) * 2 - 1
    risk = 3 * torch.exp(-2 * (x[:, 0] ** 2 + x[:, 1] ** 2)) + x[:, 2]
    time = torch.distributions.Exponential(torch.exp(risk)).sample()
    censored = torch.distributions.Exponential(1.5 * torch.ones(n)).sample()
    return x, torch.minimum(time, censored), (time <= censored).float()


def concordance(risk: torch.Tensor, time: torch.Tensor, event: torch.Tensor) -> float:
    """Return the share of comparable pairs whose order the risk gives, 0.5 by chance."""
    comparable = (time[:, None] < time[None]) & (event[:, None] > 0)
    return float((risk[:, None] > risk[None])[comparable].float().mean())


def train(
    watch: Watch, seed: int, hidden: int = 32, drop: float = 0.2, batch_size: int = 128
) -> float:
    torch.manual_seed(seed)
    x, time, event = patients(3000)
    model = DeepSurv(10, hidden, drop)
    criterion = NegativeLogLikelihood()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
    monitor = watch(model, optimizer)
    for _ in range(30):
        model.train()
        for rows in torch.randperm(len(x)).split(batch_size):
            loss = criterion(model(x[rows]), time[rows], event[rows])
            monitor.loss(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    model.eval()
    x, time, event = patients(1500)
    with torch.no_grad():
        return concordance(model(x)[:, 0], time, event)


PROGRAM = Program(
    train,
    metric="concordance on test patients, 0.5 by chance",
    healthy=0.65,
    settings=({"seed": 0}, {"seed": 1, "hidden": 64, "drop": 0.4}, {"seed": 2, "batch_size": 64}),
)
