"""A neural ODE learns a spiral; the solver makes Runge-Kutta steps through the same network."""

from __future__ import annotations

import torch
from torch import nn, optim

from healthy.program import Program, Watch

POINTS, STEP = 200, 0.05
TRUE_A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])


class ODEFunc(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 2))
        for m in self.net.modules():
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, mean=0, std=0.1)
                nn.init.constant_(m.bias, val=0)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.net(y**3)


def odeint(func: nn.Module, y: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the states after 0 to `steps` - 1 steps, shape (steps, ..., 2)."""
    states = [y]
    for _ in range(steps - 1):
        k1 = func(y)
        k2 = func(y + STEP * k1 / 2)
        y = y + STEP * k2
        states.append(y)
    return torch.stack(states)


def train(
    watch: Watch, seed: int, hidden: int = 50, batch_time: int = 8, lr: float = 3e-3
) -> float:
    torch.manual_seed(seed)
    start = torch.tensor([2.0, 0.0])
    with torch.no_grad():
        true_y = odeint(lambda y: (y**3) @ TRUE_A, start, POINTS)
    func = ODEFunc(hidden)
    optimizer = optim.RMSprop(func.parameters(), lr=lr)
    monitor = watch(func, optimizer)
    for _ in range(800):
        s = torch.randint(POINTS - batch_time, (24,))
        batch_y = torch.stack([true_y[s + i] for i in range(batch_time)])
        optimizer.zero_grad()
        pred_y = odeint(func, batch_y[0], batch_time)
        loss = torch.mean(torch.abs(pred_y - batch_y))
        monitor.loss(loss)
        loss.backward()
        optimizer.step()
    # From other points of the plane, over a quarter of the time.
    begin = torch.tensor([[1.6, 0.4], [-1.2, 1.0], [0.8, -1.3]])
    with torch.no_grad():
        truth = odeint(lambda y: (y**3) @ TRUE_A, begin, 20)
        predicted = odeint(func, begin, 20)
        moved = (truth - begin).abs().mean()
        return float((predicted - truth).abs().mean() / moved)


PROGRAM = Program(
    train,
    metric="mean error of other orbits over the mean distance moved",
    healthy=0.4,
    lower_is_better=True,
    settings=({"seed": 0}, {"seed": 1, "hidden": 80}, {"seed": 2, "batch_time": 12}),
)
