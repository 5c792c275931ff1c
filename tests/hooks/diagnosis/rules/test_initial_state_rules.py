"""TV302, TV303, TV305: the first weights and the first loss, on real networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from helpers.first_steps import (
    CROSS_ENTROPY,
    found,
    the_same_weights_every_time,  # noqa: F401 - a fixture
    train,
)
from helpers.fixing import applied
from helpers.small_runs import layers
from trainvitals.api.schema import Severity
from trainvitals.capture.capture import Capture
from trainvitals.diagnosis.causes import headline_of
from trainvitals.diagnosis.examine import Engine
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial import initial_loss, now_of, weight_gains
from trainvitals.diagnosis.rules.init_activation_mismatch import (
    InitActivationMismatch,
)
from trainvitals.diagnosis.rules.init_scale_too_large import InitScaleTooLarge
from trainvitals.diagnosis.rules.init_scale_too_small import InitScaleTooSmall
from trainvitals.diagnosis.rules.initial_loss_anomaly import InitialLossAnomaly
from trainvitals.wire import Event, EventKind


def mlp(*, depth: int = 3, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Hidden layers 0, 2, 4, … of width 32 with He initialisation, and an output layer."""
    parts: list[nn.Module] = []
    for i in range(depth):
        parts += [nn.Linear(32 if i else 16, 32), activation()]
        nn.init.kaiming_normal_(parts[-2].weight, nonlinearity="relu")
    return nn.Sequential(*parts, nn.Linear(32, 10))


def scaled(model: nn.Module, factor: float, *names: str) -> nn.Module:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in names or (not names and parameter.ndim > 1):
                parameter.mul_(factor)
    return model


class Times(nn.Module):
    """Multiply the input by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def large_features(factor: float, head: float = 1.0) -> nn.Module:
    """Features times `factor`, and an output layer of `head` times He's that undoes its factor."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), Times(factor / head), nn.Linear(64, 10))
    for layer in (model[0], model[3]):
        nn.init.kaiming_normal_(layer.weight)
    return scaled(model, head, "3.weight")


class Recurrent(nn.Module):
    """A tanh RNN over the 16 features, one at a time."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.rnn, self.head = nn.RNN(1, 32, batch_first=True), nn.Linear(32, 10)
        nn.init.orthogonal_(self.rnn.get_parameter("weight_hh_l0"), gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x[:, :, None])[0][:, -1])


class TestTheGainOfAWeight:
    def test_is_that_of_the_initialiser(self):
        model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
        nn.init.kaiming_normal_(model[0].weight, nonlinearity="relu")
        history = train(nn.Sequential(nn.Linear(16, 256), nn.ReLU(), model))
        gains = {g.place.name: g.value for g in weight_gains(history)}
        assert gains["2.0.weight"] == pytest.approx(math.sqrt(2), rel=0.05)
        assert gains["2.2.weight"] == pytest.approx(1 / math.sqrt(3), rel=0.05)

    def test_is_not_judged_before_a_normalisation_that_undoes_it(self):
        model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
        assert [g.place.name for g in weight_gains(train(model))] == ["3.weight"]

    def test_is_unknown_for_parameters_that_are_no_layer(self):
        class Tokens(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.token, self.head = nn.Parameter(torch.randn(1, 16)), nn.Linear(16, 10)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(x + self.token)

        assert [g.place.name for g in weight_gains(train(Tokens()))] == ["head.weight"]


class TestInitScaleTooLarge:
    def test_weights_of_standard_deviation_one_are_named_at_the_first_layer(self):
        model = mlp()
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        finding = found(InitScaleTooLarge, train(model))
        assert finding.where == "0.weight"
        assert "3 more layers" in finding.summary

    def test_one_layer_is_named_where_it_is(self):
        assert found(InitScaleTooLarge, train(scaled(mlp(), 50, "4.weight"))).where == "4.weight"

    def test_saturated_tanh_layers_are_its_consequence(self):
        history = train(scaled(mlp(activation=nn.Tanh), 6, "0.weight", "2.weight", "4.weight"))
        finding = found(InitScaleTooLarge, history)
        assert finding.where == "0.weight"
        assert any("saturated" in e.quantity for e in finding.evidence)
        assert headline_of(Engine().examine(history)).rule == "init_scale_too_large"

    def test_a_recurrent_weight_that_saturates_the_states_gets_a_fix_that_makes_it_orthogonal(self):
        finding = found(InitScaleTooLarge, train(Recurrent(4.0)))
        assert finding.where == "rnn.weight_hh_l0"
        model = Recurrent(4.0)
        applied(finding.fix, model=model)
        hidden = model.rnn.weight_hh_l0
        assert torch.allclose(hidden @ hidden.T, torch.eye(len(hidden)), atol=1e-5)

    @pytest.mark.parametrize("gain", [0.3, 1.0, 1.5])
    def test_usual_recurrent_weights_are_not_reported(self, gain):
        assert found(InitScaleTooLarge, train(Recurrent(gain))) is None

    @pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid])
    @pytest.mark.parametrize("depth", [1, 4, 12])
    def test_he_initialisation_is_not_reported(self, activation, depth):
        assert found(InitScaleTooLarge, train(mlp(depth=depth, activation=activation))) is None

    def test_a_large_weight_behind_a_small_one_has_no_consequence(self):
        history = train(scaled(scaled(mlp(), 0.02, "2.weight"), 50, "4.weight"))
        assert found(InitScaleTooLarge, history) is None

    def test_it_ends_when_the_run_has_learned_and_the_weights_are_usual_again(self):
        model = scaled(mlp(), 6, "6.weight")
        assert found(InitScaleTooLarge, train(model)) is not None
        shrink = torch.optim.SGD(model.parameters(), 0.05, weight_decay=0.2)
        history, engine = History(), Engine()
        capture = Capture(model, shrink, emit=history.add, every=1)
        x = torch.randn(512, 16)
        y = (x @ torch.randn(16, 10)).argmax(1)
        for _ in range(400):
            shrink.zero_grad()
            loss = CROSS_ENTROPY(model(x), y)
            capture.loss(loss)
            loss.backward()
            shrink.step()
        capture.detach()
        assert weight_gains(history)[-1].value > 3
        assert not [f for f in engine.examine(history) if f.rule == "init_scale_too_large"]


class TestInitScaleTooSmall:
    def test_one_tiny_weight_is_a_warning_at_the_first_step_and_named(self):
        finding = found(InitScaleTooSmall, train(scaled(mlp(depth=5), 1e-4, "4.weight")))
        assert (finding.where, finding.severity) == ("4.weight", Severity.WARNING)
        model = scaled(mlp(depth=5), 1e-4, "4.weight")
        applied(finding.fix, model=model)
        gains = [layer.weight.std() for layer in list(model)[2:10:2]]
        assert max(gains) < 1.3 * min(gains)

    def test_two_tiny_layers_are_named_and_stay_so_when_they_have_recovered(self):
        model = mlp(depth=2)
        for weight in (model[0].weight, model[2].weight):
            nn.init.normal_(weight, std=2e-3)
        history = train(model, steps=60, rate=0.02)
        assert all(now_of(history, gain) > 0.3 for gain in weight_gains(history))
        finding = found(InitScaleTooSmall, history)
        assert (finding.where, finding.severity) == ("0.weight", Severity.WARNING)
        assert "all 2 hidden layers" in finding.summary
        fixed = mlp(depth=2)
        applied(finding.fix, model=fixed)
        assert float(fixed[2].weight.detach().abs().max()) <= 32**-0.5  # PyTorch's default

    def test_a_module_that_divides_the_signal_by_a_constant_is_named(self):
        class Divide(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x / 1e4

        model = mlp(depth=5)
        model[3] = nn.Sequential(model[3], Divide())
        finding = found(InitScaleTooSmall, train(model))
        assert finding.where == "3.1"
        applied(finding.fix, model=model)
        assert isinstance(model[3][1], nn.Identity)

    def test_a_small_output_layer_is_usual(self):
        assert found(InitScaleTooSmall, train(scaled(mlp(depth=5), 1e-4, "10.weight"))) is None

    def test_a_plain_rnn_that_forgets_is_reported_once_it_has_not_learned(self):
        history = train(Recurrent(0.02), steps=120, rate=1e-5)
        assert found(InitScaleTooSmall, history).where == "rnn.weight_hh_l0"
        assert found(InitScaleTooSmall, train(Recurrent(0.02), steps=60, rate=1e-5)) is None
        assert found(InitScaleTooSmall, train(Recurrent(0.8), steps=120, rate=1e-5)) is None


class TestInitialLossAnomaly:
    def test_a_bias_that_favours_one_class_is_named(self):
        model = layers(16, 32, 10)
        with torch.no_grad():
            [*model.parameters()][-1][3] = 60
        finding = found(InitialLossAnomaly, train(model))
        assert finding.where.endswith("bias")
        assert "ln 10 = 2.3" in finding.summary
        assert "zeros_" in finding.fix

    def test_large_logits_without_a_large_bias_are_named_at_the_output_layer(self):
        finding = found(InitialLossAnomaly, train(scaled(mlp(), 60, "6.weight")))
        assert finding.where == "6"

    @pytest.mark.parametrize(("head", "severity"), [(1.0, None), (4.0, Severity.WARNING)])
    def test_large_features_before_a_usual_head_are_not_reported(self, head, severity):
        history = train(large_features(2.5, head), steps=1)
        start = initial_loss(history)
        assert 2 * start.expected < start.seen < 4 * start.expected
        finding = found(InitialLossAnomaly, history)
        assert (finding and finding.severity) == severity

    @pytest.mark.parametrize(
        ("bias", "steps", "rate", "severity"),
        [
            (0.0, 1, 1e-2, Severity.INFO),
            (0.0, 49, 1e-6, Severity.INFO),
            (0.0, 50, 1e-6, Severity.WARNING),
            (0.0, 90, 2e-3, Severity.INFO),
            (6.0, 1, 1e-2, Severity.WARNING),
        ],
        ids=[
            *("at the start", "before 50 steps", "the loss does not fall", "it falls"),
            "a large bias",
        ],
    )
    def test_larger_features_before_it_are_information_unless_the_loss_stays(
        self, bias, steps, rate, severity
    ):
        model = large_features(5.0)
        with torch.no_grad():
            model.get_parameter("3.bias")[3] = bias
        history = train(model, steps=steps, rate=rate)
        start = initial_loss(history)
        assert 4 * start.expected < start.seen < 8 * start.expected
        assert found(InitialLossAnomaly, history).severity is severity

    def test_features_that_make_the_loss_far_too_large_are_a_warning_at_once(self):
        history = train(large_features(9.0), steps=1)
        start = initial_loss(history)
        assert 8 * start.expected < start.seen
        assert found(InitialLossAnomaly, history).severity is Severity.WARNING

    def test_a_large_penalty_beside_a_usual_cross_entropy_is_not_an_anomaly(self):
        model = layers(16, 32, 10)

        def penalised(output: Tensor, target: Tensor) -> Tensor:
            return CROSS_ENTROPY(output, target) + sum((w**2).sum() for w in model.parameters())

        assert found(InitialLossAnomaly, train(model, penalised)) is None

    @pytest.mark.parametrize(
        ("loss", "outputs", "expected"),
        [
            (lambda o, y: CROSS_ENTROPY(o, y % 4), 4, math.log(4)),
            (
                lambda o, y: nn.functional.binary_cross_entropy_with_logits(o[:, 0], (y % 2) * 1.0),
                1,
                math.log(2),
            ),
            (lambda o, y: nn.functional.mse_loss(o[:, 0], (y - 4.5) / 3), 1, None),
            (lambda o, y: nn.functional.mse_loss(o[:, 0], y * 1.0), 1, None),
            (lambda o, y: nn.functional.cross_entropy(o, y, reduction="sum"), 10, None),
            (lambda o, y: nn.functional.cross_entropy(o, y, label_smoothing=0.2), 10, None),
            (
                lambda o, y: (
                    nn.functional.binary_cross_entropy_with_logits(
                        o, (y[:, None] > torch.arange(10)) * 1.0, reduction="none"
                    )
                    .sum(1)
                    .mean()
                ),
                10,
                None,
            ),
        ],
        ids=[
            *("cross entropy", "binary", "squared error", "offset", "sum", "smoothing"),
            "sum over the intervals of a sample",
        ],
    )
    def test_usual_first_losses_are_not_reported(self, loss, outputs, expected):
        history = train(layers(16, 32, outputs), loss)
        assert found(InitialLossAnomaly, history) is None
        if expected is not None:
            assert initial_loss(history).expected == pytest.approx(expected)

    def test_outputs_that_are_far_from_the_targets_are_reported(self):
        def squared(output: Tensor, target: Tensor) -> Tensor:
            return nn.functional.mse_loss(output[:, 0], (target - 4.5) / 3)

        finding = found(InitialLossAnomaly, train(scaled(layers(16, 32, 1), 20), squared))
        assert "mean square of the targets" in finding.summary

    @pytest.mark.parametrize(
        ("kind", "loss", "reported"),
        [("MSELoss", 3.9, False), ("MSELoss", 4.1, True), ("L1Loss", 2.1, True)],
    )
    def test_a_squared_error_counts_from_twice_the_distance_that_the_targets_have(
        self, kind, loss, reported
    ):
        targets = {"target_mean": 0.0, "target_std": 1.0}
        usual = {"mean": 0.0, "std": 1.0, "min": -3.0, "max": 3.0}
        predictions = {f"prediction_{name}": value for name, value in usual.items()}
        example = Example(1).scalars(loss=loss, **targets, **predictions)
        example.history.add(Event(0, 0.0, EventKind.LOSS_KIND, kind, {"reduction": "mean"}))
        assert (found(InitialLossAnomaly, example.history) is not None) == reported

    def test_it_ends_when_the_loss_is_clearly_below_the_expected_one(self):
        model = scaled(mlp(), 12, "6.weight")
        assert found(InitialLossAnomaly, train(model)) is not None
        again = scaled(mlp(), 12, "6.weight")
        assert found(InitialLossAnomaly, train(again, steps=400, rate=1e-2)) is None


class Residual(nn.Module):
    """x + a branch with PyTorch's default initialisation."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.up(x)))


class TestInitActivationMismatch:
    @pytest.mark.parametrize("as_modules", [True, False])
    def test_the_fix_replaces_the_sigmoids_between_the_layers(self, as_modules):
        class Functional(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(8))
                self.head = nn.Linear(16, 10)

            def forward(self, x: Tensor) -> Tensor:
                for layer in self.layers:
                    x = layer(x).sigmoid()
                return self.head(x)

        model = layers(16, *[16] * 8, 10, activation=nn.Sigmoid) if as_modules else Functional()
        finding = found(InitActivationMismatch, train(model))
        assert ("SiLU" in finding.fix) is as_modules
        applied(finding.fix, model=model)
        assert not [m for m in model.modules() if isinstance(m, nn.Sigmoid)]

    def stack(self, activation: type[nn.Module], gain: float, depth: int = 10) -> nn.Module:
        model = mlp(depth=depth, activation=activation)
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight, gain=gain)
        return model

    def test_the_default_before_relu_is_named_with_the_gain_that_relu_wants(self):
        finding = found(InitActivationMismatch, train(layers(16, *[32] * 10, 10)))
        assert finding.severity is Severity.INFO
        assert "PyTorch's default" in finding.summary
        assert "relu wants 1.41" in finding.summary

    def test_the_fix_gives_the_weights_the_gain_of_their_nonlinearity(self):
        model = self.stack(nn.Tanh, 0.3)
        finding = found(InitActivationMismatch, train(model))
        applied(finding.fix, model=model)
        weight = model[2].weight
        assert weight.std().item() == pytest.approx(5 / 3 / len(weight) ** 0.5, rel=0.1)

    @pytest.mark.parametrize(("activation", "gain"), [(nn.ReLU, 1.41), (nn.Tanh, 5 / 3)])
    def test_weights_that_fit_are_not_reported(self, activation, gain):
        assert found(InitActivationMismatch, train(self.stack(activation, gain))) is None

    def test_three_default_layers_and_residual_blocks_are_not_reported(self):
        assert found(InitActivationMismatch, train(layers(16, 32, 32, 32, 10))) is None
        blocks = nn.Sequential(nn.Linear(16, 32), *(Residual() for _ in range(8)))
        model = nn.Sequential(blocks, nn.Linear(32, 10))
        assert found(InitActivationMismatch, train(model)) is None
