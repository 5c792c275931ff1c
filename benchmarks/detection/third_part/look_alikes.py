"""Healthy variants of the third part whose properties look like faults."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from detection.bases import TokenLoss
from detection.controls.register import control
from detection.program import Program, output_layer
from detection.third_part import models
from detection.third_part.mapping import (
    COUNTER,
    DECODER,
    GRAPH,
    GRID,
    MIXER,
    SCENES,
    TOWERS,
    UNET,
    WAVENET,
)
from detection.third_part.programs import PinballLoss, TemporalDifference, TwoTaskLoss
from detection.third_part.samples import IGNORED


@control(f"{MIXER} {DECODER}")
def residual_branches_that_start_at_zero(p: Program) -> None:
    for name, weight in p.model.named_parameters():
        if "down" in name or "proj" in name:
            nn.init.zeros_(weight)


@control(MIXER)
def blocks_left_out_at_random(p: Program) -> None:
    # Stochastic depth: in some steps a block has no gradient.
    for block in p.model.blocks:
        inner = block.forward

        def forward(x: Tensor, block: nn.Module = block, inner: object = inner) -> Tensor:
            left_out = block.training and float(torch.rand(())) < 0.2
            return x if left_out else inner(x)  # type: ignore[operator,no-any-return]

        block.forward = forward


@control(f"{MIXER} {COUNTER}")
def rectangles_erased(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone()
        top, left = torch.randint(9, (2,)).tolist()
        x[::4, :, top : top + 3, left : left + 3] = 0
        return x, y

    p.collate = collate


@control(COUNTER)
def head_bias_at_the_logarithm_of_the_mean(p: Program) -> None:
    nn.init.zeros_(output_layer(p.model)[1].weight)
    nn.init.constant_(output_layer(p.model)[1].bias, float(p.data.y.mean().log()))


@control(COUNTER)
def poisson_loss_with_its_constant(p: Program) -> None:
    p.loss = nn.PoissonNLLLoss(full=True)


@control(COUNTER)
def mostly_empty_images(p: Program) -> None:
    keep = (p.data.y[:, 0] < 1) | (torch.arange(len(p.data.y)) % 2 == 0)
    p.data = replace(p.data, x=p.data.x[keep], y=p.data.y[keep])


class Median(PinballLoss):
    """Only the quantile 0.5 of three outputs: twice the loss is the absolute error."""

    quantiles = torch.tensor([0.5, 0.5, 0.5])[:, None]


@control(WAVENET)
def three_equal_medians(p: Program) -> None:
    p.loss, p.metric = Median(), Median()


@control(WAVENET)
def first_values_without_a_target(p: Program) -> None:
    inner = p.loss
    p.loss = lambda output, target: inner(output[..., 8:], target[..., 8:])


@control(WAVENET)
def series_of_small_amplitude(p: Program) -> None:
    p.with_inputs(lambda x: 0.2 * x)
    p.with_targets(lambda y: 0.2 * y)


@control(GRAPH)
def four_of_five_nodes_without_a_label(p: Program) -> None:
    def hide(y: Tensor) -> Tensor:
        return y.masked_fill(torch.rand(y.shape) < 0.8, IGNORED)

    p.with_targets(hide, test=False)
    p.batch_size = 32


@control(GRAPH)
def edges_dropped_at_random(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        kept = torch.rand(len(x), 20, 20).triu(1) > 0.2
        kept = kept | kept.transpose(1, 2)
        return torch.cat((x[..., :20] * kept, x[..., 20:]), 2), y

    p.collate = collate


@control(GRAPH)
def communities_with_unequal_weights(p: Program) -> None:
    p.loss = TokenLoss(weight=torch.tensor([0.5, 1.0, 2.0]))


@control(TOWERS)
def temperature_that_stays(p: Program) -> None:
    p.model.log_scale.requires_grad_(False)
    p.parameters = lambda model: [w for w in model.parameters() if w.requires_grad]


@control(TOWERS)
def batch_of_256_pairs(p: Program) -> None:
    p.batch_size, p.steps = 256, 120


@control(TOWERS)
def item_tower_locked(p: Program) -> None:
    # Locked-image tuning: a tower is trained elsewhere, and only the other one learns here.
    def pretrain(program: Program, _: optim.Optimizer) -> None:
        optimizer = optim.Adam(program.model.parameters(), 3e-3)
        for _ in range(150):
            rows = torch.randint(len(program.data.x), (64,))
            optimizer.zero_grad()
            program.loss(program.model(program.data.x[rows]), program.data.y[rows]).backward()
            optimizer.step()
        for module in program.model.query:
            if isinstance(module, nn.Linear):
                module.reset_parameters()

    p.started.append(pretrain)
    inner = p.parameters

    def parameters(model: nn.Module) -> list[Tensor]:
        return [w for w in inner(model) if id(w) not in {id(v) for v in model.item.parameters()}]

    def freeze(program: Program, _: optim.Optimizer) -> None:
        program.model.item.requires_grad_(False)

    p.parameters = parameters
    p.started.append(freeze)


@control(UNET)
def output_is_the_noise_that_is_subtracted(p: Program) -> None:
    p.forward = lambda model, x: x - model(x)


@control(UNET)
def noise_of_random_strength(p: Program) -> None:
    p.collate = lambda _, x, y: (y + (x - y) * 1.5 * torch.rand(len(x), 1, 1, 1), y)


@control(UNET)
def head_of_zeros_on_an_image(p: Program) -> None:
    nn.init.zeros_(p.model.head.weight)
    nn.init.zeros_(p.model.head.bias)


@control(UNET)
def average_of_the_weights(p: Program) -> None:
    average = copy.deepcopy(p.model)

    def event(_: int, program: Program, __: object) -> None:
        with torch.no_grad():
            own = program.model.state_dict()
            for name, slow in average.state_dict().items():
                if slow.is_floating_point():
                    slow.lerp_(own[name], 0.1)

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        return model(x) if model.training else average.eval()(x)  # type: ignore[no-any-return]

    p.forward = forward
    p.events.append(event)


@control(DECODER)
def head_shares_the_embedding(p: Program) -> None:
    p.model.head.weight = p.model.embedding.weight


@control(DECODER)
def questions_are_targets_too(p: Program) -> None:
    text = torch.cat((p.data.x[:, 1:], p.data.x[:, :1]), 1)
    known = torch.arange(text.shape[1]) < text.shape[1] - 1
    p.with_targets(lambda y: torch.where((y == IGNORED) & known, text, y), test=False)


@control(DECODER)
def frozen_token_embedding(p: Program) -> None:
    p.model.embedding.requires_grad_(False)
    p.parameters = lambda model: [w for w in model.parameters() if w.requires_grad]


@control(DECODER)
def half_of_the_texts_without_a_target(p: Program) -> None:
    p.with_targets(lambda y: y.masked_fill(torch.rand(len(y), 1) < 0.5, IGNORED), test=False)


class LearnedWeights(TwoTaskLoss):
    """The terms are weighted by learned variances; the loss can be below 0."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(2))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        labels = self.labels(output[:, :-1], target[:, :-1])
        value = self.value(output[:, -1], target[:, -1])
        terms = torch.stack((labels, value))
        return ((-self.log_variances).exp() * terms + self.log_variances).sum()


@control(SCENES)
def terms_with_learned_weights(p: Program) -> None:
    loss = LearnedWeights()
    p.loss = loss
    p.parameters = lambda model: [*model.parameters(), *loss.parameters()]


class SmallTerm(TwoTaskLoss):
    """The number is a small auxiliary term."""

    def value(self, value: Tensor, target: Tensor) -> Tensor:
        return 0.05 * super().value(value, target)


@control(SCENES)
def number_as_a_small_term(p: Program) -> None:
    p.loss = SmallTerm()


class WeightedLabels(TwoTaskLoss):
    """True labels count more than false ones."""

    def labels(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, target, pos_weight=torch.tensor(2.0))


@control(SCENES)
def true_labels_weighted_by_two(p: Program) -> None:
    p.loss = WeightedLabels()


@control(SCENES)
def heads_with_their_own_rate(p: Program) -> None:
    def make(parameters: list[Tensor], lr: float) -> optim.Optimizer:
        groups = [{"params": parameters[:4]}, {"params": parameters[4:], "lr": 3 * lr}]
        return optim.AdamW(groups, lr)

    p.optimizer = make


@control(GRID, name="q_learning_declared")
def loss_need_not_fall(p: Program) -> None:
    p.loss_falls = False


@control(GRID)
def target_network(p: Program) -> None:
    # The next state is valued by a copy that is renewed every 10 steps.
    target = copy.deepcopy(p.model.net)
    p.model.after = lambda following: target(following).detach()

    def event(step: int, program: Program, _: object) -> None:
        if step % 10 == 9:
            target.load_state_dict(program.model.net.state_dict())

    p.events.append(event)


class CostOfMoves(TemporalDifference):
    """Every move costs a little, as is usual for short paths."""

    def reward(self, reward: Tensor) -> Tensor:
        return reward - 0.02


@control(GRID)
def moves_that_cost_a_little(p: Program) -> None:
    p.loss = CostOfMoves()


@control(GRID)
def values_that_start_high(p: Program) -> None:
    nn.init.constant_(output_layer(p.model)[1].bias, 1.0)


@control(f"{GRAPH} {WAVENET}")
def orthogonal_layers(p: Program) -> None:
    for module in p.model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.orthogonal_(module.weight)


@control(f"{TOWERS} {GRAPH}")
def noise_on_the_gradients(p: Program) -> None:
    # As for privacy: clipped gradients with a little noise.
    p.clip_norm = 1.0

    def register(program: Program, optimizer: optim.Optimizer) -> None:
        def add(*_: object) -> None:
            for weight in program.model.parameters():
                if weight.grad is not None:
                    scale = 0.1 / math.sqrt(weight.numel())
                    weight.grad.add_(0.1 * scale * torch.randn_like(weight))

        optimizer.register_step_pre_hook(add)

    p.started.append(register)


@control(WAVENET)
def wider_kernels(p: Program) -> None:
    p.model = models.WaveNet(3, width=12, kernel=3)
