"""A double DQN with replay, an ε-greedy policy and a target network plays "catch"."""

from __future__ import annotations

import random
from collections import deque

import torch
from torch import nn

from healthy.program import Program, Watch

WIDTH, HEIGHT = 6, 6


class Catch:
    """A ball falls one row each step; the paddle in the last row moves left, stays, or right."""

    def reset(self) -> torch.Tensor:
        self.row, self.ball = 0, random.randrange(WIDTH)
        self.paddle = random.randrange(WIDTH)
        return self.observation()

    def observation(self) -> torch.Tensor:
        board = torch.zeros(HEIGHT, WIDTH)
        board[self.row, self.ball] = 1.0
        board[-1, self.paddle] = 1.0
        return board.flatten()

    def step(self, action: int) -> tuple[torch.Tensor, float, bool]:
        self.paddle = min(max(self.paddle + action - 1, 0), WIDTH - 1)
        self.row += 1
        done = self.row == HEIGHT - 1
        reward = (1.0 if self.paddle == self.ball else -1.0) if done else 0.0
        return self.observation(), reward, done


class DQN(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(WIDTH * HEIGHT, hidden)
        self.layer2 = nn.Linear(hidden, hidden)
        self.layer3 = nn.Linear(hidden, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.layer1(x))
        return self.layer3(torch.relu(self.layer2(x)))


def score(net: nn.Module, episodes: int = 200) -> float:
    env, total = Catch(), 0.0
    for _ in range(episodes):
        state, done = env.reset(), False
        while not done:
            with torch.no_grad():
                state, reward, done = env.step(int(net(state).argmax()))
        total += reward
    return total / episodes


def train(watch: Watch, seed: int, hidden: int = 64, lr: float = 1e-3, tau: float = 0.01) -> float:
    torch.manual_seed(seed)
    random.seed(seed)
    policy_net, target_net = DQN(hidden), DQN(hidden)
    target_net.load_state_dict(policy_net.state_dict())
    optimizer = torch.optim.AdamW(policy_net.parameters(), lr=lr, amsgrad=True)
    criterion = nn.SmoothL1Loss()
    memory: deque = deque(maxlen=5000)
    env = Catch()
    monitor = watch(policy_net, optimizer)
    state = env.reset()
    for t in range(3500):
        if random.random() < max(0.05, 1 - t / 1500):
            action = random.randrange(3)
        else:
            with torch.no_grad():
                action = int(policy_net(state).argmax())
        following, reward, done = env.step(action)
        memory.append((state, action, reward, following, float(done)))
        state = env.reset() if done else following
        if len(memory) < 200:
            continue
        states, actions, rewards, next_states, ends = zip(*random.sample(memory, 64), strict=True)
        batch, next_batch = torch.stack(states), torch.stack(next_states)
        value = policy_net(batch).gather(1, torch.tensor(actions)[:, None]).squeeze(1)
        with torch.no_grad():
            best = policy_net(next_batch).argmax(1, keepdim=True)
            future = target_net(next_batch).gather(1, best).squeeze(1)
        expected = torch.tensor(rewards) + 0.95 * future * (1 - torch.tensor(ends))
        loss = criterion(value, expected)
        monitor.loss(loss)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(policy_net.parameters(), 100)
        optimizer.step()
        for target, online in zip(target_net.parameters(), policy_net.parameters(), strict=True):
            target.data.lerp_(online.data, tau)
    return score(policy_net)


PROGRAM = Program(
    train,
    metric="mean reward of the greedy policy, -0.67 by chance, at most 1",
    healthy=0.5,
    settings=({"seed": 0}, {"seed": 1, "hidden": 128, "lr": 5e-4}),
)
