"""A small student learns from the softened outputs of a larger teacher (knowledge distillation)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from healthy.data import digits
from healthy.program import Program, Watch


class Teacher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(256, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.dropout(F.relu(self.fc1(x.flatten(1))), 0.5, self.training)
        return self.fc2(x)


class Student(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def loss_fn_kd(
    outputs: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor, alpha: float, T: float
) -> torch.Tensor:
    soft = nn.KLDivLoss(reduction="batchmean")(
        F.log_softmax(outputs / T, dim=1), F.softmax(teacher / T, dim=1)
    )
    return soft * (alpha * T * T) + F.cross_entropy(outputs, labels) * (1.0 - alpha)


def train(watch: Watch, seed: int, hidden: int = 24, alpha: float = 0.9, T: float = 4.0) -> float:
    torch.manual_seed(seed)
    x_train, y_train, x_test, y_test = digits()
    teacher = Teacher()
    optimizer = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(4):
        for rows in torch.randperm(len(x_train)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(teacher(x_train[rows]), y_train[rows]).backward()
            optimizer.step()
    teacher.eval()

    student = Student(hidden)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    monitor = watch(student, optimizer)
    for _ in range(25):
        student.train()
        for rows in torch.randperm(len(x_train)).split(32):
            with torch.no_grad():
                teacher_outputs = teacher(x_train[rows])
            loss = loss_fn_kd(student(x_train[rows]), y_train[rows], teacher_outputs, alpha, T)
            monitor.loss(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    student.eval()
    with torch.no_grad():
        return float((student(x_test).argmax(1) == y_test).float().mean())


PROGRAM = Program(
    train,
    metric="test accuracy of the student, chance 0.1",
    healthy=0.9,
    settings=({"seed": 0}, {"seed": 1, "hidden": 48, "T": 2.0}, {"seed": 2, "alpha": 0.5}),
)
