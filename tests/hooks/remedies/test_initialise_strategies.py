"""Each strategy of `initialise`, the bias of the head, and the arguments that are refused."""

import copy
import math

import pytest
import torch
from torch import nn

from helpers.models_to_initialise import TinyTransformer, stack, state_of, unchanged
from trainvitals.remedies import identify, initialise
from trainvitals.remedies.strategies import PARAMETERS


@pytest.mark.parametrize(
    ("strategy", "name"),
    [(name, name) for name in PARAMETERS if name not in ("auto", "constant", "gpt2")]
    + [("gpt2", "normal")],
)
def test_identify_finds_each_strategy_in_the_weights(strategy, name):
    torch.manual_seed(0)
    # Not square, so that no two names are one distribution; sigmoid and linear want gain 1.
    gain = {"gain": math.sqrt(2)} if strategy.startswith("he_") else {}
    model = nn.Sequential(nn.Linear(100, 150), nn.Sigmoid())
    initialise(model, strategy, **gain)
    assert identify(model[0].weight).name == name


def test_torch_default_is_what_a_new_layer_has():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 200), nn.LSTM(200, 50))
    new = copy.deepcopy(model)
    initialise(model, "torch_default")
    for name, tensor in model.named_parameters():
        expected = dict(new.named_parameters())[name]
        assert not torch.equal(tensor, expected)
        largest = float(tensor.detach().abs().max())
        assert largest == pytest.approx(float(expected.detach().abs().max()), rel=0.05)


def test_gpt2_scales_the_branches_and_fills_the_embeddings():
    torch.manual_seed(0)
    model = TinyTransformer()
    plan = initialise(model, "gpt2")
    assert plan.of("embedding.weight").std_after == pytest.approx(0.02, rel=0.05)
    assert plan.of("encoder.layers.0.linear1.weight").std_after == pytest.approx(0.02, rel=0.05)
    last = plan.of("encoder.layers.0.linear2.weight").std_after
    assert last == pytest.approx(0.02 / math.sqrt(6), rel=0.05)


def test_gpt2_keeps_the_padding_of_an_embedding_at_0():
    embedding = nn.Embedding(10, 4, padding_idx=2)
    initialise(embedding, "gpt2")
    assert not embedding.weight[2].any()
    assert embedding.weight.detach().any(dim=1).sum() == 9


def test_a_head_that_is_registered_before_its_embedding_is_left_too():
    model = nn.Module()
    model.head, model.embedding = nn.Linear(4, 10, bias=False), nn.Embedding(10, 4)
    model.embedding.weight = model.head.weight
    assert initialise(model).of("head.weight").reason == "embedding (tied)"


def test_attention_in_a_block_of_ones_own_ends_a_branch():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            h = self.norm(x)
            return self.head(x + self.attention(h, h, h)[0])

    assert "residual branch" in initialise(Block()).of("attention.out_proj.weight").reason


def test_a_layer_that_is_registered_last_but_not_used_is_no_head():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.spare = nn.Linear(4, 2), nn.Linear(4, 4)

        def forward(self, x):
            return self.head(x)

    assert initialise(Unused(), class_prior=[0.9, 0.1]).of("head.bias").strategy == "prior"


def test_parameters_of_a_strategy_are_used():
    torch.manual_seed(0)
    model = stack(nn.ReLU())
    first, last = model[0].weight.detach(), model[2].weight.detach()
    initialise(model, "constant", value=0.5)
    assert float(first.min()) == float(last.max()) == 0.5
    initialise(model, "uniform", low=2, high=3)
    assert 2 <= float(first.min()) <= float(first.max()) <= 3
    initialise(model, "orthogonal", gain=2)
    assert identify(model[0].weight).parameters["gain"] == pytest.approx(2)
    plan = initialise(model, "he_normal", mode="fan_out")
    assert plan.of("2.weight").std_after == pytest.approx(math.sqrt(1 / 10), rel=0.05)


def test_the_heads_bias_becomes_the_log_prior_of_the_classes():
    model = stack(nn.ReLU())
    row = initialise(model, class_prior=[0.55] + [0.05] * 9).of("2.bias")
    assert row.strategy == "prior"
    assert model[2].bias.detach().softmax(0).tolist() == pytest.approx([0.55] + [0.05] * 9)
    initialise(model, targets=torch.tensor([0] * 99 + list(range(10))))
    assert float(model[2].bias.detach().softmax(0)[0]) == pytest.approx(101 / 119)


@pytest.mark.parametrize(
    ("outputs", "targets", "bias"),
    [
        (1, torch.tensor([10.0, 20.0]), [15.0]),
        (1, torch.tensor([[10.0], [20.0]]), [15.0]),
        (2, torch.tensor([[1.0, 5.0], [3.0, 5.0]]), [2.0, 5.0]),
        (1, torch.tensor([1, 0, 0, 0, 0, 0, 0, 0]), [math.log(2 / 8)]),
        (2, torch.tensor([[1, 0], [1, 0]]), [math.log(3), -math.log(3)]),
    ],
)
def test_the_heads_bias_becomes_the_mean_of_numbers_or_the_log_odds_of_zeros_and_ones(
    outputs, targets, bias
):
    model = nn.Sequential(nn.Linear(4, outputs))
    initialise(model, targets=targets)
    assert model[0].bias.tolist() == pytest.approx(bias)


def test_a_dry_run_changes_nothing_and_tells_what_the_call_does():
    model = TinyTransformer()
    before, state = state_of(model), torch.get_rng_state()
    planned = initialise(model, dry_run=True)
    assert unchanged(model, before)
    assert torch.equal(torch.get_rng_state(), state)
    done = initialise(model)
    assert planned.rows == done.rows
    assert (planned.applied, done.applied) == (False, True)


def test_the_same_seed_gives_the_same_weights():
    first, second = stack(nn.ReLU()), stack(nn.ReLU())
    torch.manual_seed(7)
    initialise(first)
    torch.manual_seed(7)
    initialise(second)
    assert unchanged(first, second.state_dict())


def test_with_a_generator_the_global_random_state_is_not_used():
    first, second = stack(nn.ReLU()), stack(nn.ReLU())
    state = torch.get_rng_state()
    initialise(first, generator=torch.Generator().manual_seed(7))
    initialise(second, generator=torch.Generator().manual_seed(7))
    assert unchanged(first, second.state_dict())
    assert torch.equal(torch.get_rng_state(), state)
    generator = torch.Generator().manual_seed(7)
    initialise(first, dry_run=True, generator=generator)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(7).get_state())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("strategy", ["auto", "orthogonal", "truncated_normal"])
def test_half_precision_is_initialised(dtype, strategy):
    model = stack(nn.ReLU()).to(dtype)
    initialise(model, strategy)
    assert model[0].weight.dtype is dtype
    assert model[0].weight.isfinite().all()


def test_the_plan_prints_as_a_table():
    text = str(initialise(stack(nn.ReLU())))
    lines = text.splitlines()
    assert lines[0].split("  ")[0] == "parameter"
    assert len(lines) == 2 + 4
    assert "before relu" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"strategy": "glorot"}, ValueError, "no strategy 'glorot'"),
        ({"strategy": "normal", "std": -1.0}, ValueError, "std is -1.0"),
        ({"strategy": "normal", "std": "0.1"}, TypeError, "must be a number"),
        ({"strategy": "normal", "gain": 1.0}, TypeError, "no parameter 'gain'"),
        ({"strategy": "constant"}, TypeError, "needs value="),
        ({"strategy": "uniform", "low": 1.0}, ValueError, "low must be smaller"),
        ({"strategy": "he_normal", "mode": "fan"}, ValueError, "fan_out"),
        ({"nonlinearity": "swish"}, ValueError, "is one of"),
        ({"head": "7"}, ValueError, "no module '7'"),
        ({"head": nn.Linear(1, 1)}, ValueError, "not a module of the model"),
        ({"class_prior": [0.5, 0.5]}, ValueError, "10 outputs"),
        ({"class_prior": [0.2] * 10}, ValueError, "sum to 1"),
        ({"class_prior": [0.0] + [1 / 9] * 9}, ValueError, "between 0 and 1"),
        ({"targets": torch.tensor([0, 10])}, ValueError, "must be 0 to 9"),
        ({"targets": torch.tensor([0.5, 1.0])}, ValueError, "not whole numbers"),
        ({"targets": torch.zeros(3, 4)}, ValueError, "do not fit a head with 10 outputs"),
        ({"targets": torch.tensor([math.nan])}, ValueError, "NaN"),
        ({"targets": torch.tensor([1]), "class_prior": [0.1] * 10}, ValueError, "not both"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_argument_changes_nothing_and_says_what_was_expected(arguments, error, text):
    model = stack(nn.ReLU())
    before, state = state_of(model), torch.get_rng_state()
    with pytest.raises(error, match=text):
        initialise(model, **arguments)
    assert unchanged(model, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_with_two_heads_asks_which_one_gets_the_prior():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 1)

        def forward(self, x):
            x = torch.relu(self.body(x))
            return self.a(x), self.b(x)

    model = TwoHeads()
    with pytest.raises(ValueError, match="2 layers that may be its head"):
        initialise(model, class_prior=[0.5, 0.5])
    assert initialise(model, head="b", class_prior=0.25).of("b.bias").strategy == "prior"
    assert model.b.bias.item() == pytest.approx(math.log(1 / 3))


def test_a_model_is_a_module():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        initialise([1, 2])
