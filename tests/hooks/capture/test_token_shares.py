"""The most frequent token of the inputs is counted for models with embeddings."""

import pytest
import torch
from torch import nn

from trainvitals.capture.supervised_padding import TokenShare
from trainvitals.wire import Scalar

TOKENS = torch.tensor([[0, 0, 0, 1], [0, 0, 2, 3]])


def share(model, x):
    taken = TokenShare([model]).take(x)
    return float(taken[Scalar.INPUT_TOKEN_SHARE]) if taken else None


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_it_is_the_share_of_one_token_but_padding(kind):
    assert share(kind(4, 2), TOKENS) == 5 / 8
    assert share(kind(4, 2, padding_idx=0), TOKENS) == 0
    assert share(kind(4, 2, padding_idx=3), TOKENS) == 5 / 8


def test_other_models_and_inputs_have_none():
    assert share(nn.Linear(4, 2), TOKENS) is None
    assert share(nn.Embedding(4, 2), TOKENS.float()) is None
    assert share(nn.Embedding(4, 2), TOKENS[0]) is None
