"""PPO with generalised advantages and a Gaussian policy steers points to a target."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributions import Normal

from healthy.program import Program, Watch

ENVS, HORIZON, GAMMA, LAMBDA = 32, 32, 0.95, 0.95


def layer_init(layer: nn.Linear, std: float = 2**0.5) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, std)
    nn.init.constant_(layer.bias, 0.0)
    return layer


class Agent(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.critic = nn.Sequential(
            layer_init(nn.Linear(4, hidden)), nn.Tanh(),
            layer_init(nn.Linear(hidden, hidden)), nn.Tanh(),
            layer_init(nn.Linear(hidden, 1), std=1.0),
        )  # fmt: skip
        self.actor_mean = nn.Sequential(
            layer_init(nn.Linear(4, hidden)), nn.Tanh(),
            layer_init(nn.Linear(hidden, hidden)), nn.Tanh(),
            layer_init(nn.Linear(hidden, 2), std=0.01),
        )  # fmt: skip
        self.actor_logstd = nn.Parameter(torch.zeros(1, 2))

    def policy(self, x: torch.Tensor) -> Normal:
        mean = self.actor_mean(x)
        return Normal(mean, self.actor_logstd.exp().expand_as(mean))


class Points:
    """Points with momentum in a plane; the reward is minus the distance to the origin."""

    def reset(self) -> torch.Tensor:
        self.place, self.speed = torch.rand(ENVS, 2) * 2 - 1, torch.zeros(ENVS, 2)
        return torch.cat([self.place, self.speed], 1)

    def step(self, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.speed = 0.9 * self.speed + 0.1 * action.clamp(-1, 1)
        self.place = self.place + 0.5 * self.speed
        return torch.cat([self.place, self.speed], 1), -self.place.norm(dim=1)


def train(
    watch: Watch, seed: int, hidden: int = 64, ent_coef: float = 0.0, lr: float = 1e-3
) -> float:
    torch.manual_seed(seed)
    agent, env = Agent(hidden), Points()
    optimizer = torch.optim.Adam(agent.parameters(), lr=lr, eps=1e-5)
    monitor = watch(agent, optimizer)
    updates = 60
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = (1 - update / updates) * lr
        states, actions, logprobs, rewards, values = [], [], [], [], []
        state = env.reset()
        for _ in range(HORIZON):
            with torch.no_grad():
                distribution = agent.policy(state)
                action = distribution.sample()
                values.append(agent.critic(state).squeeze(1))
            states.append(state)
            actions.append(action)
            logprobs.append(distribution.log_prob(action).sum(1))
            state, reward = env.step(action)
            rewards.append(reward)
        with torch.no_grad():
            following, last, advantages = agent.critic(state).squeeze(1), 0.0, []
            for reward, value in zip(reversed(rewards), reversed(values), strict=True):
                last = reward + GAMMA * following - value + GAMMA * LAMBDA * last
                following = value
                advantages.append(last)
        b_states, b_actions = torch.cat(states), torch.cat(actions)
        b_logprobs, b_advantages = torch.cat(logprobs), torch.cat(advantages[::-1])
        b_returns = b_advantages + torch.cat(values)
        for _ in range(4):
            for rows in torch.randperm(len(b_states)).split(256):
                distribution = agent.policy(b_states[rows])
                newlogprob = distribution.log_prob(b_actions[rows]).sum(1)
                ratio = (newlogprob - b_logprobs[rows]).exp()
                gain = b_advantages[rows]
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                pg_loss = torch.max(-gain * ratio, -gain * ratio.clamp(0.8, 1.2)).mean()
                v_loss = 0.5 * ((agent.critic(b_states[rows])[:, 0] - b_returns[rows]) ** 2).mean()
                entropy = distribution.entropy().sum(1).mean()
                loss = pg_loss - ent_coef * entropy + 0.5 * v_loss
                monitor.loss(loss)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
    state, total = env.reset(), 0.0
    still = float(env.place.norm(dim=1).mean())
    for _ in range(HORIZON):
        with torch.no_grad():
            state, reward = env.step(agent.actor_mean(state))
        total += float(reward.mean())
    return -total / HORIZON / still


PROGRAM = Program(
    train,
    metric="mean distance to the target over that of a point at rest",
    healthy=0.6,
    lower_is_better=True,
    settings=({"seed": 0}, {"seed": 1, "hidden": 32, "lr": 3e-3}, {"seed": 2, "ent_coef": 0.01}),
)
