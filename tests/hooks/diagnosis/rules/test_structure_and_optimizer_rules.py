"""TV105, TV204, TV606, TV702, TV902: structure, optimizer and values, on real small trainings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.small_runs import layers  # noqa: E402
from trainvitals.api.schema import Finding, Severity  # noqa: E402
from trainvitals.capture.capture import Capture  # noqa: E402
from trainvitals.diagnosis.causes import headline_of  # noqa: E402
from trainvitals.diagnosis.examine import Engine  # noqa: E402
from trainvitals.diagnosis.example import Example  # noqa: E402
from trainvitals.diagnosis.history import History  # noqa: E402
from trainvitals.diagnosis.rules.bias_regularised import BiasRegularised  # noqa: E402
from trainvitals.diagnosis.rules.clipping_always_active import ClippingAlwaysActive  # noqa: E402
from trainvitals.diagnosis.rules.missing_nonlinearity import MissingNonlinearity  # noqa: E402
from trainvitals.diagnosis.rules.non_finite_input import NonFiniteInput  # noqa: E402
from trainvitals.diagnosis.rules.parameter_jump import ParameterJump  # noqa: E402
from trainvitals.wire import Place, Stat, Stream  # noqa: E402

Optimizer = Callable[[nn.Module], torch.optim.Optimizer]


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 3e-3)


@dataclass
class Run:
    """A regression of a smooth function of 8 inputs; `y` has the mean `offset`."""

    model: nn.Module = field(default_factory=lambda: layers(8, 32, 32, 1))
    optimizer: Optimizer = adam
    steps: int = 40
    every: int = 1
    offset: float = 0.0
    clip: float | None = None
    batch: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]] = lambda _, x, y: (x, y)
    after: Callable[[int, nn.Module], object] = lambda _, __: None


def train(run: Run) -> History:
    history, g = History(), torch.Generator().manual_seed(0)
    x = torch.randn(512, 8, generator=g)
    y = (x[:, :1] * x[:, 1:2] + x[:, 2:3]).tanh() + run.offset
    optimizer = run.optimizer(run.model)
    capture = Capture(run.model, optimizer, emit=history.add, every=run.every)
    history.facts |= capture.facts
    for step in range(run.steps):
        at = torch.randint(512, (32,), generator=g)
        inputs, targets = run.batch(step, x[at], y[at])
        optimizer.zero_grad()
        output = run.model(inputs)
        loss = F.mse_loss(output, targets)
        capture.loss(loss, prediction=output, target=targets)
        loss.backward()
        if run.clip is not None:
            nn.utils.clip_grad_norm_(run.model.parameters(), run.clip)
        optimizer.step()
        run.after(step, run.model)
    capture.detach()
    return history


@pytest.fixture(autouse=True)
def _the_same_weights_every_time():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def found(rule, history: History) -> Finding | None:
    findings = list(rule().check(history))
    assert len(findings) <= 1
    return findings[0] if findings else None


class TestClippingAlwaysActive:
    def sgd(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), 0.05)

    def test_a_limit_far_below_the_norm_under_sgd_is_a_warning_with_the_usual_norm_as_its_fix(self):
        history = train(Run(optimizer=self.sgd, clip=1e-4, steps=80))
        finding = found(ClippingAlwaysActive, history)
        assert finding.severity is Severity.WARNING
        proposed = float(finding.fix.partition("max_norm=")[2].rstrip(")"))
        assert 0.05 < proposed < 5

    def test_it_explains_the_low_learning_rate_that_it_causes(self):
        history = train(Run(optimizer=self.sgd, clip=1e-4, steps=80))
        assert headline_of(Engine().examine(history)).rule == "clipping_always_active"

    def test_under_adam_the_run_learns_and_it_is_a_note(self):
        finding = found(ClippingAlwaysActive, train(Run(clip=1e-3, steps=100)))
        assert finding.severity is Severity.INFO

    @pytest.mark.parametrize(("clip", "steps"), [(1.0, 80), (None, 80), (1e-4, 40)])
    def test_usual_limits_no_clipping_and_short_runs_are_not_reported(self, clip, steps):
        assert found(ClippingAlwaysActive, train(Run(clip=clip, steps=steps))) is None

    def test_clipping_of_every_other_step_is_not_reported(self):
        after = np.where(np.arange(100) % 2, 1e-3, 1.0)
        scalars = {"gradient_norm": after, "gradient_norm_before_clipping": np.ones(100)}
        history = Example(100).scalars(loss=np.ones(100), **scalars).history
        assert found(ClippingAlwaysActive, history) is None


class Functional(nn.Module):
    """Three linear layers with a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 48), nn.Linear(48, 48), nn.Linear(48, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.function(self.b(self.function(self.a(x)))))


class Projections(nn.Module):
    """Query, key and value of one input, each as wide as the input, and an output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.q(x) * self.k(x) + self.v(x))


class TestMissingNonlinearity:
    def test_linear_layers_in_a_row_are_reported_at_the_first(self):
        model = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 1))
        finding = found(MissingNonlinearity, train(Run(model, steps=3)))
        assert finding.where == "0"
        assert "3 layers" in finding.summary

    def test_dropout_and_identity_between_them_change_nothing(self):
        model = nn.Sequential(
            *(nn.Linear(8, 64), nn.Identity(), nn.Linear(64, 64), nn.Dropout(0.1)),
            *(nn.Linear(64, 64), nn.Linear(64, 1)),
        )
        assert found(MissingNonlinearity, train(Run(model, steps=3))) is not None

    @pytest.mark.parametrize(
        "function",
        [
            *(F.relu, F.gelu, torch.tanh, F.silu, F.mish, torch.sin, F.softsign, torch.abs),
            lambda x: x * torch.sigmoid(x),
            torch.square,
        ],
    )
    def test_functions_in_the_forward_pass_are_seen(self, function):
        assert found(MissingNonlinearity, train(Run(Functional(function), steps=3))) is None

    @pytest.mark.parametrize(
        "model",
        [
            lambda: nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 1)),
            lambda: layers(8, 32, 32, 1),
            lambda: nn.Sequential(*(nn.Linear(8, 32), nn.LayerNorm(32), nn.Linear(32, 1))),
            Projections,
        ],
        ids=["two layers", "with ReLU", "with a norm", "projections"],
    )
    def test_look_alikes_are_not_reported(self, model):
        assert found(MissingNonlinearity, train(Run(model(), steps=3))) is None


class TestParameterJump:
    def corrupt(self, at: int, factor: float, name: str = "2.weight"):
        def change(step: int, model: nn.Module) -> None:
            if step == at:
                with torch.no_grad():
                    model.get_parameter(name).view(-1)[::7].mul_(factor)

        return change

    @pytest.mark.parametrize("every", [1, 4])
    def test_a_weight_that_something_else_wrote_is_named_with_its_step(self, every):
        run = Run(steps=80, every=every, after=self.corrupt(69, 1e4))
        finding = found(ParameterJump, train(run))
        assert (finding.where, finding.severity) == ("2.weight", Severity.WARNING)
        assert 70 <= finding.since_step <= 73

    def test_it_is_the_headline_and_explains_the_loss(self):
        history = train(Run(steps=50, after=self.corrupt(30, 1e4)))
        assert headline_of(Engine().examine(history)).rule == "parameter_jump"

    def test_a_replacement_of_usual_size_is_a_note(self):
        def replace(step: int, model: nn.Module) -> None:
            if step == 30:
                with torch.no_grad():
                    model.get_parameter("0.weight").mul_(0.3)

        finding = found(ParameterJump, train(Run(steps=32, after=replace)))
        assert finding.severity is Severity.INFO

    @pytest.mark.parametrize("every", [1, 7])
    def test_a_learning_rate_that_rises_between_captured_steps_is_no_jump(self, every):
        optimizer = torch.optim.SGD((model := layers(8, 32, 1)).parameters(), 0.01)

        def raised(step: int, _: nn.Module) -> None:
            if step == 60:
                optimizer.param_groups[0]["lr"] = 30.0

        run = Run(model, lambda _: optimizer, steps=80, every=every, after=raised)
        assert found(ParameterJump, train(run)) is None

    @pytest.mark.parametrize("rate", [1e-4, 3e-3, 1.0])
    def test_updates_of_any_size_are_no_jump(self, rate):
        def sgd(model: nn.Module) -> torch.optim.Optimizer:
            return torch.optim.SGD(model.parameters(), rate, momentum=0.9)

        assert found(ParameterJump, train(Run(optimizer=sgd, steps=60))) is None

    def test_a_program_that_rewrites_a_weight_again_and_again_is_left_alone(self):
        def swap(step: int, model: nn.Module) -> None:
            if step % 10 == 9:
                with torch.no_grad():
                    model.get_parameter("0.weight").mul_(10.0 if step % 20 == 9 else 0.1)

        assert found(ParameterJump, train(Run(steps=60, after=swap))) is None


class TestBiasRegularised:
    def decayed(self, on_biases: float, on_weights: float = 0.01, rate: float = 3e-3) -> Finding:
        def optimizer(model: nn.Module) -> torch.optim.Optimizer:
            groups = [
                {"params": [p for p in model.parameters() if p.ndim > 1]},
                {"params": [p for p in model.parameters() if p.ndim < 2]},
            ]
            groups[0]["weight_decay"], groups[1]["weight_decay"] = on_weights, on_biases
            return torch.optim.AdamW(groups, rate)

        return found(BiasRegularised, train(Run(optimizer=optimizer, steps=120, offset=3.0)))

    def test_strong_decay_of_the_biases_alone_is_reported_at_the_last_bias(self):
        finding = self.decayed(30.0)
        assert finding.where == "4.bias"
        assert "weight_decay" in finding.fix

    @pytest.mark.parametrize("decay", [0.0, 0.01, 0.1])
    def test_usual_decay_of_biases_is_not(self, decay):
        assert self.decayed(decay, decay) is None

    def test_decay_of_all_parameters_is_another_fault(self):
        assert self.decayed(30.0, 30.0) is None


class TestNonFiniteInput:
    def batch(self, at: int, value: float, *, of_targets: bool = False):
        def change(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            changed = (y if of_targets else x).clone()
            if step == at:
                changed.view(-1)[3] = value
            return (x, changed) if of_targets else (changed, y)

        return change

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_value_in_the_inputs_is_named_with_its_step_and_explains_the_rest(self, value):
        history = train(Run(steps=24, batch=self.batch(20, value)))
        finding = found(NonFiniteInput, history)
        assert (finding.where, finding.since_step) == ("0", 20)
        assert headline_of(Engine().examine(history)).rule == "non_finite_input"

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_value_in_the_targets_is_told_from_an_input(self, value):
        history = train(Run(steps=14, batch=self.batch(5, value, of_targets=True)))
        finding = found(NonFiniteInput, history)
        assert (finding.where, finding.since_step) == ("targets", 5)
        assert headline_of(Engine().examine(history)).rule == "non_finite_input"

    @pytest.mark.parametrize(
        ("loss", "severity"), [(0.5, Severity.INFO), (math.nan, Severity.ERROR)]
    )
    def test_missing_values_that_the_program_handles_are_a_note(self, loss, severity):
        bad = np.where(np.arange(8) == 5, 3.0, 0.0)
        history = Example(8).scalars(loss=loss, nonfinite_inputs=bad).history
        finding = found(NonFiniteInput, history)
        assert (finding.severity, finding.since_step) == (severity, 5)
        assert "3 entries of the input" in finding.summary

    def test_a_first_layer_that_makes_the_value_from_a_measured_finite_input_is_not_the_data(self):
        example = Example(8)
        example.history = NonFiniteInput.sick()
        assert found(NonFiniteInput, example.history)
        assert found(NonFiniteInput, example.scalars(nonfinite_inputs=0.0).history) is None

    def test_weights_that_diverged_before_are_another_fault(self):
        def sgd(model: nn.Module) -> torch.optim.Optimizer:
            return torch.optim.SGD(model.parameters(), 1e4)

        history = train(Run(optimizer=sgd, steps=30))
        assert history.scalar("nonfinite_loss").values.max() > 0
        assert found(NonFiniteInput, history) is None

    def test_a_first_layer_with_large_outputs_before_is_not_blamed_on_the_data(self):
        weight = Place("0.weight", "weight", (8, 8), 0, "0", "Linear")
        module = Place("0", "Linear", depth=0, module="0")
        bad = np.where(np.arange(8) >= 5, 1.0, 0.0)
        history = (
            Example(8)
            .stream(
                Stream.WEIGHT,
                [weight],
                {"0.weight": {Stat.MIN: -9.0, Stat.MAX: 9.0, Stat.NONFINITE: 0.0}},
            )
            .stream(
                Stream.ACTIVATION,
                [module],
                {"0": {Stat.NONFINITE: bad, Stat.MIN: -6e37, Stat.MAX: 6e37}},
            )
            .history
        )
        assert found(NonFiniteInput, history) is None
