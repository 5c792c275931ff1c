"""A data set that draws random numbers, for spawned workers to import, and its DataLoader."""

import torch
from torch.utils.data import DataLoader, TensorDataset

SAMPLES = 96


class Noisy(TensorDataset):
    """Draws from torch's global generator for each sample."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 0.01 * torch.randn(8), y


def noisy_samples(*, bad=None):
    """Return 96 samples of 8 features in 3 classes; sample `bad` has a NaN."""
    x = torch.randn(SAMPLES, 8, generator=torch.Generator().manual_seed(3))
    y = x[:, :3].argmax(1)
    if bad is not None:
        x[bad, 2] = float("nan")
    return Noisy(x, y)


def loader_of(dataset, workers=0, **options):
    return DataLoader(dataset, batch_size=8, shuffle=True, num_workers=workers, **options)
