"""A minimal training script with a trainvitals monitor. It prints the diagnosis at the end.

python examples/six_lines.py
"""

import torch
from torch import nn

import trainvitals

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
criterion = nn.MSELoss()
weights = torch.randn(20, 1)
inputs = torch.randn(200, 32, 20)
batches = [(x, x @ weights + 0.1 * torch.randn(32, 1)) for x in inputs]

monitor = trainvitals.watch(model, optimizer)
for x, y in batches:
    optimizer.zero_grad()
    loss = monitor.loss(criterion(model(x), y))
    loss.backward()
    optimizer.step()
monitor.close()
