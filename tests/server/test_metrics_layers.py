"""Layers with their own series on /metrics are the ones that need attention most."""

import math

import numpy as np
import pytest

from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.metrics.layers import LAYERS_MAX, Layers, layers_of
from trainvitals.wire import Place, Stat, Stream


def measured(ratios, l2=None, nonfinite=None):
    """A history in which layer i has the update ratio ratios[i] and, with `l2`, a gradient."""
    places = [Place(f"l{i}", kind="weight", shape=(4, 4)) for i in range(len(ratios))]
    example = Example(3).stream(
        Stream.UPDATE,
        places,
        {p.name: {Stat.RATIO: r} for p, r in zip(places, ratios, strict=True)},
    )
    if l2:
        columns = {
            p.name: {Stat.L2: n, Stat.NONFINITE: (nonfinite or {}).get(p.name, 0)}
            for p, n in zip(places, l2, strict=True)
        }
        example = example.stream(Stream.GRADIENT, places, columns)
    return example.history


def test_the_layer_whose_update_ratio_is_farthest_from_healthy_is_first():
    layers = layers_of(measured([1e-3, 1e-6, 0.1]))
    assert [layer.name for layer in layers.worst] == ["l1", "l2", "l0"]


def test_a_layer_without_a_gradient_comes_before_all_others():
    layers = layers_of(measured([1e-3, 1e-6, 1e-3], l2=[1.0, 1.0, 0.0]))
    assert layers.worst[0].name == "l2"


def test_a_gradient_that_is_not_finite_is_not_shown_as_a_number():
    layers = layers_of(measured([1e-3, 1e-3], l2=[1.0, 1.0], nonfinite={"l1": 5}))
    assert layers.worst[0].name == "l1"
    assert math.isnan(layers.worst[0].gradient_rms)


def test_the_rms_is_the_norm_over_the_root_of_the_count_and_the_spread_its_largest_ratio():
    layers = layers_of(measured([1e-3, 1e-3], l2=[4.0, 1.0]))
    assert [layer.gradient_rms for layer in layers.worst] == [1.0, 0.25]
    assert layers.gradient_spread == pytest.approx(4.0)


def test_layers_over_the_limit_are_counted():
    layers = layers_of(measured([1e-3] * (LAYERS_MAX + 7)))
    assert (len(layers.worst), layers.left_out) == (LAYERS_MAX, 7)


def test_a_block_has_the_values_of_its_weights_as_if_they_were_one_tensor():
    shapes = {"enc.0.q.weight": (4, 4), "enc.0.k.weight": (2, 2), "enc.1.q.weight": (4, 4)}
    places = [Place(name, kind="weight", shape=shape) for name, shape in shapes.items()]
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    updates = {name: 1e-2 * rng.normal(size=shape) for name, shape in shapes.items()}
    rms = lambda x: float(np.sqrt(np.mean(x**2)))  # noqa: E731
    example = Example(3)
    for stream, of in ((Stream.WEIGHT, weights), (Stream.GRADIENT, updates)):
        columns = {n: {Stat.L2: float(np.linalg.norm(x)), Stat.NONFINITE: 0} for n, x in of.items()}
        example = example.stream(stream, places, columns)
    ratios = {n: {Stat.RATIO: rms(updates[n]) / rms(weights[n])} for n in shapes}
    layers = layers_of(example.stream(Stream.UPDATE, places, ratios).history)
    first = next(block for block in layers.blocks if block.name == "enc.0")
    names = ("enc.0.q.weight", "enc.0.k.weight")
    weight = rms(np.concatenate([weights[n].ravel() for n in names]))
    update = rms(np.concatenate([updates[n].ravel() for n in names]))
    assert first.weight_rms == pytest.approx(weight, rel=1e-5)
    assert first.gradient_rms == pytest.approx(update, rel=1e-5)
    assert first.update_ratio == pytest.approx(update / weight, rel=1e-5)
    assert {block.name for block in layers.blocks} == {"enc.0", "enc.1"}


def test_a_gradient_that_is_not_finite_makes_that_of_its_block_so():
    layers = layers_of(measured([1e-3, 1e-3], l2=[1.0, 1.0], nonfinite={"l1": 5}))
    assert [block.name for block in layers.blocks if math.isnan(block.gradient_rms)] == ["l1"]


def test_a_run_without_measurements_has_no_layers():
    assert layers_of(History()) == Layers()
