"""Data sets that several programs use; the others generate theirs."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor

TEST = 360
"""Images of the test part."""


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the digits as (x_train, y_train, x_test, y_test).

    Images have shape (n, 1, 8, 8) and values from 0 to 1. The split does not depend on the seed.
    """
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return x[TEST:], y[TEST:], x[:TEST], y[:TEST]


def coverage(made: Tensor, test: Tensor, neighbours: int = 5) -> float:
    """Return the share of test samples that have a made sample in their neighbourhood, 0 to 1.

    The neighbourhood of a test sample reaches to its fifth nearest other test sample. Samples have
    shape (n, d). Source: Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative
    Models", 2020, arXiv:2002.09797.
    """
    radius = torch.cdist(test, test).kthvalue(neighbours + 1, dim=1).values
    return float((torch.cdist(test, made).amin(1) < radius).float().mean())
