"""Small models for the tests of `initialise`, and whether their parameters changed."""

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 128


class Residual(nn.Module):
    """A block whose nonlinearities are functions, with one ReLU module that is used twice."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x):
        x = x + F.dropout(self.down(F.gelu(self.up(self.norm(x)))), 0.1)
        return self.head(torch.tanh(self.hidden(x)))


class TinyTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3)
        self.head = nn.Linear(64, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.encoder(self.embedding(tokens)))


def stack(activation):
    return nn.Sequential(nn.Linear(WIDTH, 3 * WIDTH), activation, nn.Linear(3 * WIDTH, 10))


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
