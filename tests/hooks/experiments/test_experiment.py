"""An experiment compares choices on equal terms, leaves no trace, and refuses bad input clearly."""

import functools
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

import trainvitals
from trainvitals.experiments.choices import SoftmaxMSELoss

G = torch.Generator().manual_seed(0)
X = torch.randn(240, 8, generator=G)
CLASSES = (X @ torch.randn(8, 3, generator=G)).argmax(1)
NUMBERS = X @ torch.randn(8, generator=G)
LABELS = (NUMBERS > 0).long()


def classifier():
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    )


def regressor():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))


def frozen():
    return classifier().requires_grad_(False)


SHARED = classifier()


def leave(model):
    """Initialise nothing."""


def compared(factory=classifier, data=(X, CLASSES), vary=None, **more):
    settings = {"steps": 40, "seeds": 2, "robustness": False, "learning_rate": 0.01, **more}
    return trainvitals.experiment(
        factory, data, {"a": leave, "zeros": "zeros"} if vary is None else vary, **settings
    )


@functools.cache
def standard():
    """Return the result of `compared()`, for tests that need one of the two trainings of it."""
    return compared()


class TestWhatItCompares:
    def test_a_row_per_choice_in_the_given_order(self):
        result = standard()
        assert [row.choice for row in result.rows] == ["a", "zeros"]
        assert result.metric == "accuracy"
        learned, zeros = result.rows
        assert learned.learned
        assert learned.metric > 0.6
        assert learned.low <= learned.metric <= learned.high
        assert 0 <= learned.calibration_error <= 1
        assert 0.1 < learned.signal_ratio < 10
        assert not zeros.learned
        assert zeros.diagnosis == "TV301 symmetric_init"

    def test_identical_choices_give_identical_trainings_and_no_winner(self):
        result = compared(vary={"a": leave, "b": leave}, seeds=3)
        a, b = result.rows
        assert (a.metric, a.final_loss) == (b.metric, b.final_loss)
        assert result.best is None
        assert result.tied == ("a", "b")

    def test_the_builtin_choices(self):
        def names(data, vary, factory=classifier):
            result = compared(factory, data, vary, steps=2)
            return [row.choice for row in result.rows]

        assert names((X, CLASSES), "initialisation") == [
            "auto",
            "xavier_normal",
            "xavier_uniform",
            "he_normal",
            "torch_default",
            "zeros",
        ]
        assert names((X, CLASSES), "loss") == ["cross_entropy", "label_smoothing", "mse"]
        assert names((X, NUMBERS), "loss", regressor) == ["mse", "mae", "huber"]
        assert names((X, LABELS), "loss", regressor) == ["bce", "mse"]
        rates = [float(name) for name in names((X, CLASSES), "learning_rate")]
        assert rates[3] == 0.01
        assert rates[-1] / rates[0] == pytest.approx(1000, rel=0.01)

    def test_a_learning_rate_that_diverges_is_a_row(self):
        result = compared(
            regressor,
            (X, NUMBERS),
            {"good": 0.05, "huge": 1e6},
            optimizer=torch.optim.SGD,
            loss=nn.MSELoss(),
            steps=80,
        )
        huge = result.row("huge")
        assert (huge.metric, huge.final_loss, huge.learned) == (None, None, False)
        assert "diverged" in str(result)
        assert result.row("good").learned

    def test_regression_is_compared_by_the_median_absolute_error(self):
        result = compared(regressor, (X, NUMBERS), "loss", steps=80, robustness=True)
        assert (result.metric, result.higher_is_better) == ("median absolute error", False)
        assert all(row.calibration_error is None for row in result.rows)
        assert result.row("huber").robustness > result.row("mse").robustness

    def test_a_metric_of_the_user(self):
        def worst(model, inputs, targets):
            return (model(inputs).squeeze(-1) - targets).abs().max()

        result = compared(
            regressor, (X, NUMBERS), {"a": 0.01, "b": 1e-6}, metric=worst, higher_is_better=False
        )
        assert result.metric == "worst"
        assert result.row("a").metric < result.row("b").metric
        assert [row.learned for row in result.rows] == [True, False]

    def test_data_from_a_function_of_the_seed(self):
        asked = []

        def data(seed):
            asked.append(seed)
            order = torch.randperm(len(X))
            return [(X[i], CLASSES[i]) for i in order.split(30)]

        result = compared(data=data, robustness=True)
        assert set(asked) == {0, 1}
        assert result.row("a").learned

    def test_inputs_in_a_dict_and_one_hot_targets(self):
        class Named(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(8, 3)

            def forward(self, features):
                return self.layer(features)

        one_hot = nn.functional.one_hot(CLASSES, 3)
        data = ({"features": X}, one_hot)
        assert compared(Named, data, robustness=True).row("a").learned

    def test_columns_are_compared_with_vectors_element_by_element(self):
        # (n, 1) against (n,) would be broadcast to (n, n), and the model would learn the mean.
        result = compared(regressor, (X, NUMBERS), {"mse": nn.MSELoss(), "mae": nn.L1Loss()})
        assert all(row.learned for row in result.rows)

    @pytest.mark.parametrize(
        "labels", [LABELS.bool(), LABELS.byte(), LABELS.float(), LABELS[:, None]]
    )
    def test_labels_of_any_type(self, labels):
        assert compared(regressor, (X, labels), "loss", robustness=True).row("bce").learned

    def test_random_targets_are_not_learned(self):
        random_classes = torch.randint(0, 3, (240,), generator=torch.Generator().manual_seed(3))
        result = compared(data=(X, random_classes), vary="loss", seeds=5)
        assert not any(row.learned for row in result.rows)
        assert result.best is None

    def test_the_held_out_part_can_be_given(self):
        wrong = (X, (CLASSES + 1) % 3)
        assert compared(held_out=wrong).row("a").metric < 0.4


class TestEqualTerms:
    def test_the_random_states_of_the_caller_are_unchanged(self):
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        compared()
        assert random.getstate() == states[0]
        assert np.random.get_state()[1].tolist() == states[1]
        assert torch.equal(torch.get_rng_state(), states[2])

    def test_the_result_does_not_depend_on_the_state_of_the_caller(self):
        first = standard()
        torch.rand(1)
        assert compared().outcomes == first.outcomes

    def test_a_choice_gets_the_same_draws_whatever_else_is_compared(self):
        alone = standard().row("a")
        assert compared(vary={"he": "he_normal", "a": leave}).row("a") == alone

    def test_the_held_out_samples_are_never_trained_on(self):
        seen = set()

        class Recording(nn.Linear):
            def forward(self, x):
                if self.training and torch.is_grad_enabled():
                    seen.update(x[:, 0].tolist())
                return super().forward(x)

        held = []

        def metric(model, inputs, targets):
            held.extend(inputs[:, 0].tolist())
            return 1.0

        compared(lambda: Recording(8, 3), metric=metric, higher_is_better=True)
        assert len(set(held)) == 60
        assert len(seen) == 180
        assert not seen & set(held)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"factory": classifier()}, TypeError, "factory is a module"),
            ({"factory": lambda: 3}, TypeError, "returned a int"),
            ({"factory": lambda: 1 / 0}, ValueError, "factory.. failed: ZeroDivisionError"),
            ({"factory": frozen}, ValueError, "without trainable parameters"),
            ({"factory": lambda: nn.LazyLinear(3)}, ValueError, "lazy module"),
            ({"factory": lambda: SHARED}, ValueError, "same parameters twice"),
            ({"factory": lambda: nn.Linear(5, 3)}, ValueError, "cannot run on the data"),
            ({"data": X}, TypeError, "a pair .inputs, targets."),
            ({"data": (X, CLASSES[:9])}, ValueError, "same number of samples"),
            ({"data": (X[:4], CLASSES[:4])}, ValueError, "4 samples"),
            ({"data": (X, torch.randn(240, 7))}, ValueError, "fit no loss"),
            ({"data": (X, CLASSES + 5)}, ValueError, "expected class indices"),
            ({"data": lambda seed: [(X, CLASSES)]}, ValueError, "1 batches; expected at least 2"),
            ({"data": lambda seed: 3}, ValueError, "Expected an iterable of batches"),
            ({"vary": "optimiser"}, ValueError, "'optimiser'; expected 'initialisation'"),
            ({"vary": {"a": "he_normal"}}, ValueError, "1 choices"),
            ({"vary": {"a": [1], "b": 0.1}}, TypeError, "'a' is a list; expected a loss module"),
            ({"vary": {"a": nn.MSELoss, "b": 0.1}}, TypeError, r"pass an object: MSELoss\(\)"),
            ({"vary": {"a": "magic", "b": 0.1}}, ValueError, "no strategy"),
            ({"vary": {"a": -1.0, "b": 0.1}}, ValueError, "greater than 0"),
            (
                {"vary": {"a": nn.functional.mse_loss, "b": 0.1}},
                ValueError,
                "'a' is taken as a function that initialises",
            ),
            (
                {"vary": {"a": nn.CrossEntropyLoss(), "b": nn.NLLLoss2d}},
                TypeError,
                "is the class",
            ),
            (
                {"vary": {"a": nn.CrossEntropyLoss(), "b": nn.L1Loss()}},
                ValueError,
                "The choice 'b' cannot run. The loss cannot compare",
            ),
            ({"seeds": 1}, ValueError, "1 seeds; expected at least 2"),
            ({"seeds": [3, 3]}, ValueError, "1 seeds"),
            ({"seeds": 2.5}, TypeError, "seeds is a float"),
            ({"steps": 0}, ValueError, "steps is 0"),
            ({"learning_rate": math.nan}, ValueError, "learning_rate is nan"),
            ({"loss": "mse"}, TypeError, "expected a loss module"),
            ({"loss": nn.MSELoss(), "vary": "loss"}, ValueError, "loss= is given"),
            ({"metric": len}, ValueError, "higher_is_better"),
            ({"higher_is_better": True}, ValueError, "no metric is given"),
            ({"optimizer": 3}, TypeError, "expected a class such as"),
            ({"optimizer": lambda p: None}, ValueError, "optimizer.parameters, lr="),
        ],
    )
    @pytest.mark.filterwarnings("ignore:Using a target size")
    def test_the_message_says_what_was_expected(self, arguments, error, message):
        with pytest.raises(error, match=message):
            compared(**arguments)

    def test_a_target_that_is_not_a_number_is_named(self):
        targets = NUMBERS.clone()
        targets[3] = math.nan
        with pytest.raises(ValueError, match="targets: 1 entries are NaN"):
            compared(regressor, (X, targets), "loss", batch_size=240)

    def test_a_bad_call_leaves_the_random_state(self):
        state = torch.get_rng_state()
        with pytest.raises(ValueError, match="seeds"):
            compared(seeds=1)
        with pytest.raises(ValueError, match="cannot run"):
            compared(lambda: nn.Linear(5, 3))
        assert torch.equal(torch.get_rng_state(), state)


def test_the_mean_squared_error_of_the_softmax_leaves_ignored_targets_out():
    logits = torch.randn(4, 3, generator=G)
    targets = torch.tensor([0, 1, -100, 2])
    kept = targets != -100
    expected = nn.functional.mse_loss(
        logits[kept].softmax(1), nn.functional.one_hot(targets[kept], 3).float()
    )
    assert SoftmaxMSELoss()(logits, targets) == pytest.approx(expected.item())


def test_code_that_fails_during_a_training_is_named_with_choice_and_seed():
    with pytest.raises(ValueError, match=r"'a' with seed 0 failed: TypeError.*closure"):
        compared(optimizer=torch.optim.LBFGS)


def test_a_large_held_out_part_is_evaluated_in_chunks():
    largest = 0

    class Recording(nn.Linear):
        def forward(self, x):
            nonlocal largest
            largest = max(largest, len(x))
            return super().forward(x)

    many = torch.randn(8000, 8, generator=G)
    data = (many, (many[:, 0] > 0).long())
    result = compared(lambda: Recording(8, 2), data, steps=20)
    assert largest == 1024
    assert result.row("a").learned


def test_the_optimizer_can_be_a_partial():
    momentum = functools.partial(torch.optim.SGD, momentum=0.9)
    assert compared(optimizer=momentum).row("a").learned
