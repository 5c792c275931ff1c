"""Every base with other optimizers, losses and schedules, and known traps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler

from detection import models
from detection.bases import error_rate, momentum
from detection.controls.register import control
from detection.faults.numeric import in_float16
from detection.program import Program, hidden_layers, output_layer, put, swap
from detection.unseen import BASES


def make(kind: Any, **options: Any) -> Any:
    """Return a maker of an optimizer with `options`."""
    return lambda parameters, lr: kind(parameters, lr, **options)


@control(" ".join(BASES))
def plain(_: Program) -> None:
    pass


@control("mlp-digits mlp-friedman", name="sgd", kind=optim.SGD, lr=0.1)
@control(
    "resmlp-clusters cnn-digits",
    name="nesterov",
    kind=make(optim.SGD, momentum=0.9, nesterov=True),
    lr=0.02,
)
@control("lstm-cue transformer-chain", name="rmsprop", kind=optim.RMSprop, lr=2e-3)
@control("mlp-quadratic autoencoder-digits", name="nadam", kind=optim.NAdam, lr=3e-3)
@control("resnet-shapes gru-waves", name="radam", kind=optim.RAdam, lr=1e-2)
@control("mlp-digits mlp-quadratic", name="adagrad", kind=optim.Adagrad, lr=0.02)
@control("cnn-digits tanh-rings", name="adam", kind=optim.Adam, lr=3e-3)
@control(
    "deep-digits transformer-chain",
    name="adamw_decay",
    kind=make(optim.AdamW, weight_decay=0.1),
    lr=2e-3,
)
@control("mlp-friedman resmlp-clusters", name="adamax", kind=optim.Adamax, lr=5e-3)
def with_optimizer(p: Program, kind: Any, lr: float) -> None:
    p.optimizer, p.lr = kind, lr


@control("mlp-quadratic gru-waves", name="huber", loss=nn.HuberLoss)
@control("mlp-friedman autoencoder-digits", name="absolute_error", loss=nn.L1Loss)
@control(
    "mlp-digits resnet-shapes",
    name="label_smoothing",
    loss=lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
)
@control("tanh-rings", name="margin", loss=nn.MultiMarginLoss)
def with_loss(p: Program, loss: Callable[[], nn.Module]) -> None:
    p.loss = loss()


@control("mlp-digits resmlp-clusters")
def float16_with_a_usual_loss(p: Program) -> None:
    p.forward = in_float16


@control("mlp-digits resmlp-clusters")
def one_against_all(p: Program) -> None:
    bce = nn.BCEWithLogitsLoss()
    p.loss = lambda o, y: bce(o, nn.functional.one_hot(y, o.shape[1]).float())


@control("mlp-digits tanh-rings", name="batch_of_four")
def batch_of_four(p: Program) -> None:
    p.batch_size, p.optimizer, p.lr = 4, momentum, 5e-3


@control("mlp-friedman mlp-quadratic")
def targets_with_variance_nine(p: Program) -> None:
    p.with_targets(lambda y: 3 * y + 1)


@control("mlp-digits resmlp-clusters transformer-chain")
def warm_up(p: Program) -> None:
    p.schedule = lambda o, _: lr_scheduler.LinearLR(o, 1e-3, 1.0, 60)


@control("mlp-digits lstm-cue transformer-chain resnet-shapes")
def cosine_to_zero(p: Program) -> None:
    p.schedule = lambda o, steps: lr_scheduler.CosineAnnealingLR(o, steps)


@control("resmlp-clusters mlp-friedman")
def warm_restarts(p: Program) -> None:
    p.schedule = lambda o, _: lr_scheduler.CosineAnnealingWarmRestarts(o, 60)


@control("cnn-digits tanh-rings")
def cyclic_rate(p: Program) -> None:
    p.schedule = lambda o, _: lr_scheduler.CyclicLR(o, 0.01, 0.1, 40)


@control("mlp-digits lstm-cue transformer-chain")
def accumulation_of_four(p: Program) -> None:
    p.accumulate, p.batch_size, p.steps = 4, 16, 150


@control("lstm-cue gru-waves transformer-chain")
def clipped_at_one(p: Program) -> None:
    p.clip_norm = 1.0


@control("mlp-digits resmlp-clusters mlp-quadratic")
def dropout(p: Program) -> None:
    for kind in (nn.ReLU, nn.GELU):
        swap(p.model, kind, lambda kind=kind: nn.Sequential(kind(), nn.Dropout(0.2)))  # type: ignore[misc]
    p.validate_every = 20


@control("mlp-friedman lstm-cue resnet-shapes transformer-chain")
def with_validation(p: Program) -> None:
    p.validate_every = 20


@control("mlp-digits tanh-rings", name="one_sigmoid_layer")
def one_sigmoid_layer(p: Program) -> None:
    inputs, outputs = p.data.x.shape[1], output_layer(p.model)[1].out_features
    p.model = models.mlp(inputs, 48, outputs, activation=nn.Sigmoid)
    p.optimizer, p.lr = optim.Adam, 2e-2


@control("mlp-digits mlp-quadratic", name="silu", kind=nn.SiLU)
@control("deep-digits mlp-friedman", name="leaky_relu", kind=nn.LeakyReLU)
@control("autoencoder-digits", name="elu", kind=nn.ELU)
def with_activation(p: Program, kind: Callable[[], nn.Module]) -> None:
    swap(p.model, nn.ReLU, kind)


@control("mlp-digits resmlp-clusters", name="deep_tanh_orthogonal")
def deep_tanh_orthogonal(p: Program) -> None:
    inputs, outputs = p.data.x.shape[1], output_layer(p.model)[1].out_features
    p.model = models.mlp(inputs, *[48] * 8, outputs, activation=nn.Tanh)
    for _, layer in hidden_layers(p.model):
        nn.init.orthogonal_(layer.weight, 1.2)
    p.optimizer, p.lr = optim.Adam, 1e-3


class LoRA(nn.Module):
    """A frozen linear layer with a low-rank update whose second factor starts at zero."""

    def __init__(self, layer: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.frozen = layer.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + x @ self.a.T @ self.b.T  # type: ignore[no-any-return]


@control("mlp-digits resmlp-clusters")
def lora(p: Program) -> None:
    for name, layer in hidden_layers(p.model):
        assert isinstance(layer, nn.Linear)
        put(p.model, name, LoRA(layer))
    p.parameters = lambda model: [w for w in model.parameters() if w.requires_grad]
    p.lr = 1e-2


@control("cnn-digits resnet-shapes")
def frozen_first_layer(p: Program) -> None:
    hidden_layers(p.model)[0][1].requires_grad_(False)
    p.parameters = lambda model: [w for w in model.parameters() if w.requires_grad]


@control("mlp-digits")
def weighted_classes(p: Program) -> None:
    keep = (p.data.y < 5) | (torch.arange(len(p.data.y)) % 8 == 0)
    p.data = replace(p.data, x=p.data.x[keep], y=p.data.y[keep])
    counts = torch.bincount(p.data.y).float()
    p.loss = nn.CrossEntropyLoss(weight=counts.sum() / (10 * counts))


@control("mlp-digits resmlp-clusters")
def bfloat16_autocast(p: Program) -> None:
    def forward(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).float()  # type: ignore[no-any-return]

    p.forward = forward


@control("mlp-quadratic")
def lbfgs(p: Program) -> None:
    p.optimizer = lambda parameters, _: optim.LBFGS(parameters, lr=0.5, max_iter=4)
    p.closure, p.steps = True, 60
    p.sample = lambda _, __, ___: torch.arange(256)


class Contrastive(nn.Module):
    """InfoNCE between two noisy views; a view is a half of the batch."""

    def forward(self, output: Tensor, _: Tensor) -> Tensor:
        first, second = nn.functional.normalize(output, dim=1).chunk(2)
        return nn.functional.cross_entropy(first @ second.T / 0.2, torch.arange(len(first)))


@control("mlp-digits resmlp-clusters")
def contrastive(p: Program) -> None:
    def collate(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        half = x[: len(x) // 2]
        return torch.cat((half, half)) + 0.3 * torch.randn(2 * len(half), x.shape[1]), y

    p.collate, p.loss, p.batch_size, p.metric = collate, Contrastive(), 128, error_rate


class Experts(nn.Module):
    """Four experts behind a top-1 gate: on a step, some of them get no gradient."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gate = nn.Linear(inputs, 4)
        self.experts = nn.ModuleList(models.mlp(inputs, 32, outputs) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        share, chosen = self.gate(x).softmax(-1).max(-1)
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        return outputs[torch.arange(len(x)), chosen] * share[:, None]  # type: ignore[no-any-return]


@control("mlp-digits resmlp-clusters")
def mixture_of_experts(p: Program) -> None:
    p.model = Experts(p.data.x.shape[1], output_layer(p.model)[1].out_features)


@control("policy-clusters", name="policy_gradient_declared")
def loss_need_not_fall(p: Program) -> None:
    p.loss_falls = False


@control("mlp-digits autoencoder-digits", name="fine_tuning_from_a_low_loss")
def fine_tuning(p: Program) -> None:
    def pretrain(program: Program, _: optim.Optimizer) -> None:
        optimizer = optim.Adam(program.model.parameters(), 2e-3)
        for __ in range(300):
            rows = torch.randint(len(program.data.x), (64,))
            optimizer.zero_grad()
            program.loss(program.model(program.data.x[rows]), program.data.y[rows]).backward()
            optimizer.step()

    p.started.append(pretrain)
    p.lr /= 10
