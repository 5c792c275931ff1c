"""`initialise` fills parameters by their fans and by what follows, or leaves them and says why."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainvitals.remedies import identify, initialise
from trainvitals.remedies.strategies import PARAMETERS

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


@pytest.mark.parametrize(
    ("activation", "std"),
    [
        (nn.ReLU(), math.sqrt(2 / WIDTH)),
        (nn.GELU(), math.sqrt(2 / WIDTH)),
        (nn.LeakyReLU(0.5), math.sqrt(2 / 1.25 / WIDTH)),
        (nn.Tanh(), 5 / 3 * math.sqrt(2 / (4 * WIDTH))),
        (nn.Sigmoid(), math.sqrt(2 / (4 * WIDTH))),
        (nn.SELU(), math.sqrt(1 / WIDTH)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_auto_takes_the_scale_that_the_next_nonlinearity_needs(activation, std):
    torch.manual_seed(0)
    model = stack(activation)
    row = initialise(model).of("0.weight")
    assert float(model[0].weight.detach().std()) == pytest.approx(std, rel=0.03)
    assert row.std_after == pytest.approx(float(model[0].weight.detach().std(correction=0)))
    assert (row.fan_in, row.fan_out) == (WIDTH, 3 * WIDTH)


def test_the_head_is_initialised_for_a_linear_output_and_biases_become_0():
    model = stack(nn.ReLU())
    row = initialise(model).of("2.weight")
    assert (row.strategy, row.nonlinearity, row.reason) == ("xavier_normal", "", "head")
    assert not model[0].bias.any()
    assert not model[2].bias.any()


@pytest.mark.parametrize("depth", [30])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.SELU])
def test_the_signal_keeps_its_scale_through_a_deep_stack(activation, depth):
    torch.manual_seed(0)
    layers = [part for _ in range(depth) for part in (nn.Linear(256, 256), activation())]
    model = nn.Sequential(*layers)
    x = torch.randn(512, 256)
    default = float(model(x).detach().std(dim=0).mean())
    initialise(model)
    assert 0.1 < float(model(x).detach().std(dim=0).mean()) < 3
    assert default < 0.05


def test_functional_nonlinearities_and_residual_branches_are_found_without_data():
    model = Residual()
    plan = initialise(model)
    assert plan.of("up.weight").nonlinearity == "gelu"
    assert plan.of("hidden.weight").nonlinearity == "tanh"
    assert plan.of("head.weight").reason == "head"
    assert "residual branch" in plan.of("down.weight").reason


class Branches(nn.Module):
    """A value and a branch from it, with or without a norm, and their sum."""

    def __init__(self, *, norm=False):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 2)
        self.norm = nn.LayerNorm(9) if norm else nn.Identity()

    def forward(self, x):
        hidden = torch.relu(self.one(x))
        return self.head(hidden + self.norm(self.two(hidden)))


def test_the_end_of_a_branch_is_told_from_a_norm_after_it_and_from_a_sum_of_other_values():
    assert "residual" in initialise(Branches()).of("two.weight").reason
    assert "residual" not in initialise(Branches(norm=True)).of("two.weight").reason

    class Sum(Branches):
        def forward(self, x, z):
            return self.head(self.one(x) + self.two(z))

    assert "residual" not in initialise(Sum()).of("two.weight").reason


def test_a_module_that_is_registered_last_and_used_twice_is_found():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.out = nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 2)
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.out(self.relu(self.two(self.relu(self.one(x)))))

    plan = initialise(Shared())
    found = [plan.of(f"{name}.weight").nonlinearity for name in ("one", "two", "out")]
    assert found == ["relu", "relu", ""]


def test_where_the_forward_pass_depends_on_values_the_order_of_the_modules_is_taken():
    class Dynamic(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    plan = initialise(Dynamic(nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 2)))
    assert plan.of("0.weight").nonlinearity == "relu"
    assert plan.of("2.weight").reason == "head"


def test_a_nonlinearity_that_cannot_be_found_can_be_given():
    class Dynamic(nn.Sequential):
        def forward(self, x):
            for layer in self[:-1]:
                x = F.relu(layer(x)) if x.sum() > 0 else x
            return self[-1](x)

    plan = initialise(Dynamic(nn.Linear(9, 9), nn.Linear(9, 2)), nonlinearity="relu")
    assert [plan[0].strategy, plan[2].strategy] == ["he_normal", "xavier_normal"]


def test_a_transformers_residual_branches_are_scaled_by_their_number():
    torch.manual_seed(0)
    model = TinyTransformer()
    plan = initialise(model)
    row = plan.of("encoder.layers.2.linear2.weight")
    assert row.std_after == pytest.approx(math.sqrt(2 / (64 + 256)) / math.sqrt(6), rel=0.03)
    assert "1/√6" in row.reason
    out = plan.of("encoder.layers.0.self_attn.out_proj.weight")
    assert out.std_after == pytest.approx(math.sqrt(1 / 64) / math.sqrt(6), rel=0.05)
    assert plan.of("encoder.layers.0.linear1.weight").nonlinearity == "relu"
    # Queries, keys and values are three matrices of 64 × 64.
    joint = plan.of("encoder.layers.0.self_attn.in_proj_weight")
    assert joint.std_after == pytest.approx(math.sqrt(1 / 64), rel=0.05)


def test_embeddings_and_the_head_that_is_tied_to_them_are_left():
    model = TinyTransformer()
    before = model.embedding.weight.clone()
    row = initialise(model).of("embedding.weight")
    assert (row.strategy, row.reason) == ("left", "embedding (tied)")
    assert torch.equal(model.head.weight, before)


def test_a_tied_weight_is_initialised_once():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    plan = initialise(model)
    assert [row.parameter for row in plan] == ["0.weight", "0.bias", "2.bias"]
    assert "tied with 2.weight" in plan.of("0.weight").reason


def test_recurrent_weights_are_orthogonal_for_each_gate_and_the_forget_bias_is_1():
    lstm = nn.LSTM(8, 16)
    initialise(lstm)
    for gate in lstm.weight_hh_l0.chunk(4):
        assert torch.allclose(gate @ gate.T, torch.eye(16), atol=1e-5)
    total = lstm.bias_ih_l0 + lstm.bias_hh_l0
    assert total.tolist() == [0.0] * 16 + [1.0] * 16 + [0.0] * 32
    gru = nn.GRU(8, 16)
    initialise(gru)
    assert not gru.bias_ih_l0.any()


def test_a_transposed_convolution_and_groups_have_their_true_fans():
    up = initialise(nn.Sequential(nn.ConvTranspose2d(32, 16, 4, stride=2), nn.ReLU()))[0]
    assert (up.fan_in, up.fan_out) == (32 * 4, 16 * 16)
    grouped = initialise(nn.Sequential(nn.Conv2d(32, 64, 3, groups=4), nn.ReLU()))[0]
    assert (grouped.fan_in, grouped.fan_out) == (8 * 9, 16 * 9)


@pytest.mark.parametrize(
    ("make", "parameter", "reason"),
    [
        (lambda: nn.BatchNorm1d(4), "weight", "norm"),
        (lambda: nn.Embedding(4, 4), "weight", "embedding"),
        (lambda: nn.Linear(4, 4).requires_grad_(False), "weight", "frozen"),
        (lambda: nn.LazyLinear(4), "weight", "lazy"),
        (lambda: nn.Linear(4, 4, device="meta"), "weight", "meta"),
        (lambda: nn.Linear(4, 4, dtype=torch.complex64), "weight", "complex64"),
        (lambda: nn.PReLU(), "weight", "no rule"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "original1", "parametris"),
    ],
    ids=["norm", "embedding", "frozen", "lazy", "meta", "complex", "prelu", "parametrised"],
)
def test_what_is_left_alone_has_a_row_with_the_reason(make, parameter, reason):
    layer = make()
    plan = initialise(nn.Sequential(layer))
    [row] = [row for row in plan if row.parameter.endswith(parameter)]
    assert row.strategy == "left"
    assert reason in row.reason
    assert row.std_before == row.std_after


def test_branches_that_start_at_zero_keep_their_zeros_but_a_zero_network_does_not():
    model = Residual()
    nn.init.zeros_(model.down.weight)
    nn.init.zeros_(model.hidden.weight)
    plan = initialise(model)
    assert plan.of("down.weight").reason == "branch that starts at zero"
    assert not model.down.weight.any()
    assert model.hidden.weight.any()


def test_the_zero_factor_of_lora_is_left():
    model = nn.Module()
    model.lora_A, model.lora_B = nn.Linear(16, 2, bias=False), nn.Linear(2, 16, bias=False)
    nn.init.zeros_(model.lora_B.weight)
    assert not initialise(model).of("lora_B.weight").is_changed
    assert not model.lora_B.weight.any()


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
