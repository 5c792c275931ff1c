"""Whether targets depend on inputs is tested on the first samples of a run, without the model."""

import pytest
import torch
from scipy.stats import kstest
from torch import nn

from trainvitals.capture.capture import Capture
from trainvitals.capture.dependence import SAMPLES, Dependence, dependence
from trainvitals.capture.supervised_inputs import given_to
from trainvitals.diagnosis.history import History

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(512, 8, generator=GENERATOR)
CLASSES = torch.randint(5, (512, 1), generator=GENERATOR)


def test_the_t_value_of_independent_samples_is_a_standard_normal_number():
    generator = torch.Generator().manual_seed(1)
    values = [
        dependence(
            torch.randn(256, 64, generator=generator),
            torch.randint(4, (256, 1), generator=generator),
            is_class=True,
        ).item()
        for _ in range(200)
    ]
    assert kstest(values, "norm").pvalue > 0.01


@pytest.mark.parametrize(
    ("x", "y", "is_class"),
    [
        (X, X[:, :1].square() + 0.5 * torch.randn(512, 1, generator=GENERATOR), False),
        (X + 0.7 * nn.functional.one_hot(CLASSES[:, 0], 8), CLASSES, True),
        (X.repeat(1, 32), (X[:, :4] > 0).long(), True),
        (X * torch.tensor([1e-6, 1e6] + [1.0] * 6), X[:, 1:2], False),
    ],
    ids=["not linear", "classes", "a mask", "scales"],
)
def test_a_dependence_of_some_features_is_seen_and_ends_with_a_shuffle(x, y, is_class):
    assert dependence(x, y, is_class=is_class) > 8
    shuffled = y[torch.randperm(512, generator=GENERATOR)]
    assert abs(dependence(x, shuffled, is_class=is_class)) < 4


def test_a_sample_that_comes_again_with_its_wrong_target_is_no_dependence():
    again = torch.randint(200, (512,), generator=GENERATOR)
    x, wrong = X[:200], torch.randn(200, 1, generator=GENERATOR)
    assert abs(dependence(x[again], wrong[again], is_class=False)) < 4
    assert dependence(x[again], x[again, :1], is_class=False) > 8


def test_few_different_inputs_and_targets_without_a_difference_give_no_value():
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(128, 1)
    assert dependence(corners, corners[:, :1], is_class=False).isnan()
    assert dependence(X, torch.ones(512, 1), is_class=False).isnan()
    assert dependence(X, torch.ones(512, 1).long(), is_class=True).isnan()


def test_identifiers_give_no_value_and_whole_numbers_of_pixels_do():
    identifiers = torch.randint(100, (512, 2), generator=GENERATOR).float()
    effect = torch.randn(100, generator=GENERATOR)
    rating = effect[identifiers[:, :1].long()]
    assert dependence(identifiers, rating, is_class=False).isnan()
    pixels = (16 * X.repeat(1, 4).sigmoid()).round()
    assert dependence(pixels, X[:, :1], is_class=False) > 8


def test_it_is_made_twice_and_keeps_no_sample_afterwards():
    test, count, made = Dependence(), 0, []
    for _ in range(40):
        rows = slice(count % 480, count % 480 + 30)
        if test.take(X[rows], CLASSES[rows, 0]):
            made.append(count)
        count += 30
    assert made == [240, 510]
    assert SAMPLES == (256, 512)
    assert test._x is None
    assert test._y is None


@pytest.mark.parametrize(
    ("x", "target"),
    [
        (torch.zeros(8, 5, dtype=torch.long), torch.zeros(8)),
        (torch.zeros(8, 5), torch.zeros(40)),
        (torch.zeros(2, 5), torch.zeros(2)),
        (torch.zeros(8, 5, dtype=torch.uint8), torch.zeros(8)),
        (torch.rand(8, 5, 2), torch.rand(8)),
    ],
    ids=["tokens", "a target for each position", "two samples", "bytes", "sequences"],
)
def test_other_forms_are_not_collected(x, target):
    test = Dependence()
    for _ in range(300):
        assert test.take(x, target) == {}
    assert test._x is None


def test_a_batch_of_another_form_ends_the_test():
    test = Dependence()
    test.take(X[:200], CLASSES[:200])
    assert test.take(X[:100, :4], CLASSES[:100]) == {}
    assert test.take(X[:400], CLASSES[:400]) == {}


def test_a_training_has_the_value_once_256_samples_were_seen():
    history, model = History(), nn.Linear(8, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture = Capture(model, optimizer, emit=history.add, every=1)
    for rows in torch.arange(512).split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X[rows]), CLASSES[rows, 0])
        capture.loss(loss)
        loss.backward()
        optimizer.step()
    capture.detach()
    tested = history.scalar("input_target_dependence").finite()
    assert tested.steps.tolist() == [7, 15]
    assert (abs(tested.values) < 4).all()


@pytest.mark.parametrize(
    ("args", "kwargs", "is_only"),
    [
        ((X,), {}, True),
        (([X],), {}, True),
        (({"x": X},), {"labels": CLASSES}, True),
        ((X, CLASSES), {}, False),
        ((X,), {"mask": CLASSES}, False),
        (({"x": X, "y": X},), {}, False),
        ((), {}, False),
    ],
)
def test_a_model_of_several_inputs_is_told_apart(args, kwargs, is_only):
    assert given_to(args, kwargs).is_only is is_only
