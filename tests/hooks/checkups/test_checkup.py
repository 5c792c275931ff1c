"""A checkup names the faults that a model has before its training, and leaves no trace."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trainvitals
from trainvitals.api.schema import Diagnosis, Severity, Verdict

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 5, (64,), generator=torch.Generator().manual_seed(1))
LOSS = nn.CrossEntropyLoss()


def stack(depth=2, activation=nn.ReLU, width=64, init=None, classes=5):
    """Return `depth` hidden layers after the first; `init` is applied to each weight."""
    torch.manual_seed(0)
    hidden = [m for _ in range(depth) for m in (nn.Linear(width, width), activation())]
    model = nn.Sequential(nn.Linear(16, width), activation(), *hidden, nn.Linear(width, classes))
    for p in model.parameters():
        if init is not None and p.dim() > 1:
            init(p)
    return model


def checked(model, batch=(X, Y), loss=LOSS, optimizer=None, **more) -> Diagnosis:
    return trainvitals.checkup(model, batch, loss, optimizer, **more)


def found(diagnosis: Diagnosis) -> tuple[str, str] | None:
    return diagnosis.headline and (diagnosis.headline.rule, diagnosis.headline.where)


class TestWhatItFinds:
    @pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh])
    def test_a_usual_model_is_ready(self, activation):
        diagnosis = checked(stack(activation=activation), optimizer=None)
        assert diagnosis.verdict is Verdict.HEALTHY
        assert diagnosis.findings == ()

    def test_the_thresholds_of_the_project_apply(self, monkeypatch):
        model = stack(depth=20, activation=nn.Sigmoid)
        assert found(checked(model))[0] == "vanishing_gradient"
        limits = '{"vanishing_gradient": {"gradient_ratio_min": 1e-30}}'
        monkeypatch.setenv("TRAINVITALS_RULES", limits)
        codes = {f.rule for f in checked(model).findings}
        assert "vanishing_gradient" not in codes

    def test_a_threshold_of_the_project_makes_a_usual_model_a_finding(self, monkeypatch):
        monkeypatch.setenv("TRAINVITALS_RULES", '{"dead_relu": {"dead_share_warning": 0.0}}')
        assert "dead_relu" in {f.rule for f in checked(stack()).findings}

    def test_a_threshold_that_does_not_exist_is_one_warning(self, monkeypatch, caplog):
        monkeypatch.setenv("TRAINVITALS_RULES", '{"dead_relu": {"dead_shares": 0.1}}')
        checked(stack())
        assert "dead_relu has no threshold 'dead_shares'" in caplog.text

    def test_zeros_are_symmetric(self):
        assert found(checked(stack(init=nn.init.zeros_))) == ("symmetric_init", "0.weight")

    def test_a_standard_normal_is_too_large(self):
        assert checked(stack(4, init=nn.init.normal_)).headline.rule == "init_scale_too_large"

    def test_twenty_relu_layers_with_the_default_lose_the_signal(self):
        diagnosis = checked(stack(20))
        assert diagnosis.headline.rule == "init_scale_too_small"
        assert diagnosis.checkup.chi == pytest.approx(1 / 6, rel=0.2)  # √(1/6) per ReLU layer
        assert diagnosis.checkup.depth_of_failure == 8

    def test_twenty_relu_layers_with_he_keep_it(self):
        diagnosis = checked(stack(20, init=lambda w: nn.init.kaiming_normal_(w)))
        assert diagnosis.verdict is Verdict.HEALTHY
        assert diagnosis.checkup.chi == pytest.approx(1, abs=0.15)
        assert diagnosis.checkup.depth_of_failure is None or diagnosis.checkup.depth_of_failure > 90

    def test_twenty_sigmoid_layers_lose_the_gradient(self):
        diagnosis = checked(stack(20, nn.Sigmoid))
        assert diagnosis.headline.rule == "vanishing_gradient"
        assert diagnosis.checkup.gradient_chi < 0.1

    def test_softmax_before_cross_entropy(self):
        model = nn.Sequential(stack(), nn.Softmax(1))
        assert checked(model).headline.rule == "softmax_before_cross_entropy"

    def test_a_bias_that_kills_all_units(self):
        model = stack()
        nn.init.constant_(model[0].bias, -50.0)
        finding = checked(model).headline
        assert (finding.rule, finding.where) == ("dead_relu", "1")
        assert "100 % of the units of layer 1 are always zero" in finding.summary
        assert finding.severity is Severity.ERROR  # the layer passes nothing on
        assert "nn.init.zeros_(m.bias)" in finding.fix  # not a smaller learning rate
        exec(finding.fix, {"model": model, "nn": nn})
        assert "dead_relu" not in {f.rule for f in checked(model).findings}

    @pytest.mark.parametrize(
        ("killed", "severity"), [(44, Severity.WARNING), (64, Severity.ERROR)], ids=["some", "all"]
    )
    def test_an_error_is_at_the_layer_that_passes_nothing_on(self, killed, severity):
        model = stack()
        nn.init.constant_(model[0].bias[:44], -50.0)
        nn.init.constant_(model[2].bias[:killed], -50.0)
        finding = checked(model).headline
        assert (finding.rule, finding.severity) == ("dead_relu", severity)
        assert finding.where == ("1" if killed == 44 else "3")
        assert "1 other layer affected" in finding.summary

    def test_a_weight_that_kills_all_units(self):
        model = stack()
        with torch.no_grad():
            model[0].weight.copy_(-model[0].weight.abs())
            model[0].bias.zero_()
        findings = checked(model, batch=(X.abs(), Y)).findings
        [fix] = [f.fix for f in findings if f.rule == "dead_relu"]
        assert "LeakyReLU" in fix

    def test_tanh_units_that_are_saturated(self):
        model = stack(activation=nn.Tanh)
        with torch.no_grad():
            model[0].bias.normal_(0, 50)
        assert found(checked(model)) == ("saturated_activation", "1")

    def test_targets_of_a_regression_that_are_not_scaled(self):
        target = 1e4 + torch.randn(64, 1)
        diagnosis = checked(stack(classes=1), (X, target), nn.MSELoss())
        assert diagnosis.headline.rule == "target_not_scaled"
        assert diagnosis.checkup.initial_loss.seen > 1e7

    def test_parameters_outside_the_optimizer(self):
        model = stack()
        optimizer = torch.optim.SGD(model[-1].parameters(), 0.1)
        diagnosis = checked(model, optimizer=optimizer)
        assert found(diagnosis) == ("parameter_not_updated", "0.weight")
        assert diagnosis.headline.severity == "error"

    def test_frozen_parameters_need_no_optimizer(self):
        model = stack()
        model[0].requires_grad_(False)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
        assert checked(model, optimizer=optimizer).verdict is Verdict.HEALTHY

    def test_a_model_in_eval_mode_is_a_note(self):
        [finding] = checked(stack().eval()).findings
        assert (finding.rule, finding.severity) == ("wrong_train_eval_mode", "info")

    def test_a_part_without_gradient(self):
        class Detached(nn.Module):
            def forward(self, x):
                return x.detach()

        model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), Detached(), nn.Linear(32, 5))
        assert found(checked(model)) == ("no_gradient", "0")

    def test_a_model_that_cannot_fit_one_batch(self):
        class Ignores(nn.Module):
            def __init__(self):
                super().__init__()
                self.bias = nn.Parameter(torch.zeros(5))

            def forward(self, x):
                return self.bias.expand(len(x), 5)

        diagnosis = checked(Ignores(), overfit_steps=100)
        assert diagnosis.headline.rule == "no_learning"
        before, after = checked(stack(), overfit_steps=100).checkup.overfit
        assert after < 0.5 * before


class TestWhatItReports:
    def test_the_initialiser_of_each_parameter(self):
        model = stack()
        nn.init.xavier_uniform_(model[0].weight)
        nn.init.kaiming_normal_(model[2].weight)
        nn.init.zeros_(model[2].bias)
        names = {k: v.name for k, v in checked(model).initialisers.items()}
        assert names["0.weight"] == "xavier_uniform"
        assert names["2.weight"] == "he_normal"
        assert names["2.bias"] == "zeros"
        assert names["4.weight"] == names["0.bias"] == "torch_default"

    def test_the_propagation_in_the_order_of_the_forward_pass(self):
        rows = checked(stack(2)).propagation
        assert [row.layer for row in rows] == ["0", "1", "2", "3", "4", "5", "6"]
        assert [row.depth for row in rows] == sorted(row.depth for row in rows)
        model = stack(2)
        outputs = model[0](X)
        assert (
            pytest.approx(outputs.var(0, unbiased=False).mean().sqrt().item(), rel=1e-4)
            == rows[0].S
        )
        assert pytest.approx(outputs.mean(0).std(unbiased=False).item(), rel=1e-4) == rows[0].M
        LOSS(model(X), Y).backward()
        gradient = model[0].weight.grad.square().mean().sqrt().item()
        assert rows[0].gradient_rms == pytest.approx(gradient, rel=1e-4)
        assert rows[1].gradient_rms is None

    def test_the_initial_loss_beside_the_expected_one(self):
        loss = checked(stack()).checkup.initial_loss
        assert (loss.expected, loss.formula) == (pytest.approx(np.log(5)), "ln 5")
        assert loss.seen == pytest.approx(LOSS(stack()(X), Y).item(), rel=1e-4)

    def test_without_a_loss_it_is_blind_and_says_so(self):
        diagnosis = trainvitals.checkup(stack(), X)
        assert diagnosis.verdict is Verdict.BLIND
        assert "pass loss=" in diagnosis.blind["initial_loss_anomaly"]
        assert len(diagnosis.propagation) == 7


class TestFormsOfABatch:
    def test_a_data_loader(self):
        loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)
        assert checked(stack(), loader).checkup.batches == 4

    def test_a_dict_for_a_model_with_its_own_loss(self):
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = stack()

            def forward(self, pixels, labels):
                logits = self.body(pixels)
                return {"loss": LOSS(logits, labels), "logits": logits}

        diagnosis = trainvitals.checkup(Own(), {"pixels": X, "labels": Y})
        assert diagnosis.verdict is Verdict.HEALTHY
        assert diagnosis.checkup.initial_loss.expected == pytest.approx(np.log(5))

    def test_several_inputs(self):
        class Sum(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = stack()

            def forward(self, a, b):
                return self.body(a + b)

        assert checked(Sum(), ((X, X), Y)).verdict is Verdict.HEALTHY


def state(model, optimizer):
    values = [t.clone() for t in (*model.parameters(), *model.buffers())]
    modes = [m.training for m in model.modules()]
    gradients = [p.grad for p in model.parameters()]
    return values, modes, gradients, copy.deepcopy(optimizer.state_dict())


def drawn():
    return random.random(), np.random.rand(), torch.rand(3).tolist()


def seed():
    random.seed(3), np.random.seed(3), torch.manual_seed(3)


class TestItLeavesNoTrace:
    @pytest.fixture
    def trained(self):
        """Return a model with batch norm and dropout after two steps, with gradients."""
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 5)
        )
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            LOSS(model(X), Y).backward()
            optimizer.step()
        model[3].eval()
        return model, optimizer

    @pytest.mark.parametrize("batch", [(X, Y), (X, Y[:3])], ids=["good", "raises"])
    def test_values_modes_gradients_optimizer_and_generators_are_as_before(self, trained, batch):
        model, optimizer = trained
        before = state(model, optimizer)
        seed()
        wanted = drawn()
        seed()
        if batch[1] is Y:
            checked(model, batch, optimizer=optimizer, overfit_steps=3)
        else:
            with pytest.raises(ValueError, match="cannot compare"):
                checked(model, batch, optimizer=optimizer)
        assert drawn() == wanted
        after = state(model, optimizer)
        assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
        assert before[1] == after[1]
        assert all(a is b for a, b in zip(before[2], after[2], strict=True))
        assert str(before[3]) == str(after[3])
        assert not any(m._forward_hooks for m in model.modules())
        assert not optimizer._optimizer_step_pre_hooks

    def test_a_training_after_it_is_the_same_bit_for_bit(self):
        def trained(check):
            model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Dropout(), nn.ReLU())
            model.append(nn.Linear(32, 5))
            torch.manual_seed(1)
            for m in model:
                if hasattr(m, "reset_parameters"):
                    m.reset_parameters()
            optimizer = torch.optim.AdamW(model.parameters())
            if check:
                checked(model, optimizer=optimizer)
            for _ in range(5):
                optimizer.zero_grad()
                LOSS(model(X), Y).backward()
                optimizer.step()
            return list(model.state_dict().values())

        pairs = zip(trained(False), trained(True), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


class TestBadInput:
    def test_a_batch_that_the_model_cannot_take_is_named_with_its_shape(self):
        with pytest.raises(ValueError, match=r"cannot run on this batch \(\(4, 3\) float32\)"):
            checked(stack(), (torch.zeros(4, 3), Y[:4]))

    def test_a_loss_without_targets(self):
        with pytest.raises(ValueError, match="loss= needs targets"):
            checked(stack(), X)

    def test_a_loss_that_is_a_constant(self):
        with pytest.raises(ValueError, match="does not depend on the model's parameters"):
            checked(stack(), loss=lambda p, t: torch.zeros(()))

    def test_an_empty_loader(self):
        with pytest.raises(ValueError, match="batch is empty"):
            checked(stack(), iter(()))

    def test_a_lazy_module(self):
        with pytest.raises(ValueError, match=r"lazy module.*run the model on a batch first"):
            checked(nn.Sequential(nn.LazyLinear(5)))

    def test_a_model_without_trainable_parameters(self):
        with pytest.raises(ValueError, match="no trainable parameters"):
            checked(stack().requires_grad_(False))

    def test_something_that_is_no_model_or_no_optimizer(self):
        with pytest.raises(TypeError, match="not a torch"):
            checked("model")
        with pytest.raises(TypeError, match="not a torch optimizer"):
            checked(stack(), optimizer=3)
