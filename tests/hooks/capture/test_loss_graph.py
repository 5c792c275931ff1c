"""The kind and the wiring of a training loss are read in its autograd graph."""

import pytest
import torch
from torch.nn import functional as F

from helpers.supervised_loop import CLASSES, KINDS, VALUES, Loop, X, losses, one_step
from trainvitals.capture.loss_graph import criteria

HALF = (torch.arange(VALUES.numel()) % 2).view_as(VALUES).float()
"""A mask of every second value."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_read_in_the_graph(kind):
    [event] = one_step(KINDS[kind]).events()
    assert event.text == kind
    assert "wiring" not in event.attributes


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("MSELoss", lambda y: (y - VALUES).square().mean()),
        ("MSELoss", lambda y: ((VALUES - y) ** 2).mean().sqrt()),
        ("L1Loss", lambda y: (y - VALUES).abs().mean()),
        ("CrossEntropyLoss", lambda y: F.cross_entropy(y, VALUES.softmax(1))),
        ("CrossEntropyLoss", lambda y: F.cross_entropy(y, CLASSES, label_smoothing=0.1)),
        ("CrossEntropyLoss", lambda y: F.nll_loss(y.log_softmax(1), CLASSES)),
        ("CrossEntropyLoss + MSELoss", lambda y: losses(y).mean() + 0.1 * KINDS["MSELoss"](y)),
    ],
)
def test_equal_ways_to_write_a_loss_are_one_kind(kind, loss):
    [event] = one_step(loss).events()
    assert event.text == kind


def test_a_network_without_a_known_loss_has_no_kind():
    assert one_step(lambda y: y.logsumexp(1).mean()).events() == []


def test_a_hand_written_layer_norm_is_no_loss():
    assert one_step(lambda y: ((y - y.mean()) ** 2).mean()).events() == []


def test_an_unchanged_loss_is_described_once():
    loop = Loop()
    for _ in range(5):
        loop.step(KINDS["MSELoss"])
    loop.step(KINDS["HuberLoss"]).step(KINDS["MSELoss"])
    assert [(e.step, e.text) for e in loop.events()] == [(0, "MSELoss"), (5, "HuberLoss")]


@pytest.mark.parametrize(
    ("reduction", "loss"),
    [
        ("mean", lambda y: F.mse_loss(y, VALUES)),
        ("sum", lambda y: F.mse_loss(y, VALUES, reduction="sum")),
        ("mean", lambda y: F.mse_loss(y, VALUES, reduction="none").mean()),
        ("mean", lambda y: F.mse_loss(y, VALUES, reduction="sum") / 24),
        ("sum", lambda y: (y - VALUES).square().sum()),
        ("none", lambda y: F.mse_loss(y, VALUES, reduction="none")),
        ("mean_of_sums", lambda y: F.mse_loss(y, VALUES, reduction="none").sum(1).mean()),
        ("mean_of_sums", lambda y: ((y - VALUES) ** 2 * HALF).sum(1).mean()),
        ("mean", lambda y: ((y - VALUES) ** 2 * HALF).sum() / HALF.sum()),
        ("mean", lambda y: ((y - VALUES) ** 2).mean(1).mean()),
    ],
)
def test_the_reduction_is_read_in_the_graph(reduction, loss):
    [event] = one_step(loss).events()
    assert event.attributes["reduction"] == reduction


# Wiring.

WIRING = {
    "softmax_before_cross_entropy": lambda y: F.cross_entropy(y.softmax(1), CLASSES),
    "relu_before_cross_entropy": lambda y: F.cross_entropy(y.relu(), CLASSES),
    "softmax_before_nll_loss": lambda y: F.nll_loss(y.softmax(1), CLASSES),
    "no_log_softmax_before_nll_loss": lambda y: F.nll_loss(y + 5, CLASSES),
    "log_of_softmax_before_nll_loss": lambda y: F.nll_loss(y.softmax(1).log(), CLASSES),
    "log_softmax_over_wrong_dimension": lambda y: F.nll_loss(y.log_softmax(0), CLASSES),
    "softmax_over_one_class": lambda y: F.cross_entropy(y[:, :1], CLASSES * 0),
    "sigmoid_before_bce_with_logits": lambda y: F.binary_cross_entropy_with_logits(
        y.sigmoid(), VALUES
    ),
    "MSELoss_weighted_0": lambda y: y.sum() + 0 * F.mse_loss(y, VALUES),
}


@pytest.mark.parametrize("wiring", WIRING)
def test_a_wrong_connection_is_named(wiring):
    [event] = one_step(WIRING[wiring]).events()
    assert event.attributes["wiring"] == wiring


IMAGES = torch.zeros(8, 2, 1, dtype=torch.long)
"""Class numbers of the outputs (8, 2, 1, 3) of `as_image`."""


def as_image(y):
    """Return logits of shape (8, 2, 1, 3), the classes last, from the output (8, 3)."""
    return torch.stack([y, 2 * y], 1).unsqueeze(2) * 1.0


def pooled(y):
    """Return logits of shape (8, 3, 1, 1)."""
    return F.adaptive_avg_pool2d(y[..., None, None].expand(8, 3, 2, 2), 1)


MIXED = {
    "reshaped to (samples, classes, height, width)": lambda y: F.cross_entropy(
        as_image(y).reshape(8, 3, 1, 2), IMAGES.reshape(8, 1, 2)
    ),
    "(samples, classes, height, width) as rows of classes": lambda y: F.cross_entropy(
        (as_image(y).permute(0, 3, 1, 2) * 1.0).reshape(-1, 3), IMAGES.flatten()
    ),
}
SWAPPED = {
    "swapped": lambda y: F.cross_entropy(as_image(y).permute(0, 3, 1, 2), IMAGES),
    "swapped, then rows of classes": lambda y: F.cross_entropy(
        (as_image(y).permute(0, 3, 1, 2) * 1.0).permute(0, 2, 3, 1).reshape(-1, 3), IMAGES.flatten()
    ),
    "rows of classes": lambda y: F.cross_entropy(as_image(y).reshape(-1, 3), IMAGES.flatten()),
    "log-softmax, then rows": lambda y: F.nll_loss(
        as_image(y).log_softmax(-1).flatten(0, 2), IMAGES.flatten()
    ),
    "several groups of classes in one output": lambda y: F.cross_entropy(
        torch.cat([y, y, y], 1).view(8, 3, 3), torch.zeros(8, 3, dtype=torch.long)
    ),
    "a global pooling, flattened": lambda y: F.cross_entropy(pooled(y).flatten(1), CLASSES),
    "a global pooling, squeezed": lambda y: F.cross_entropy(
        pooled(y).squeeze(-1).squeeze(-1), CLASSES
    ),
    "a single position": lambda y: F.cross_entropy(
        y.mul(1)[:, None].view(8, 3, 1), CLASSES[:, None]
    ),
    "log-softmax of a global pooling": lambda y: F.nll_loss(
        pooled(y).log_softmax(1).flatten(1), CLASSES
    ),
}


@pytest.mark.parametrize("how", MIXED)
def test_a_reshape_in_place_of_a_swap_of_dimensions_is_named(how):
    [event] = one_step(MIXED[how]).events()
    assert event.attributes["wiring"] == "classes_mixed_by_a_view"


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_a_log_softmax_over_another_dimension_is_named_behind_a_view(dim):
    [event] = one_step(
        lambda y: F.nll_loss(as_image(y).log_softmax(dim).flatten(0, 2), IMAGES.flatten())
    ).events()
    assert event.attributes["wiring"] == "log_softmax_over_wrong_dimension"


@pytest.mark.parametrize("how", SWAPPED)
def test_dimensions_that_were_swapped_are_no_wrong_connection(how):
    [event] = one_step(SWAPPED[how]).events()
    assert "wiring" not in event.attributes


@pytest.mark.parametrize(
    ("values", "advantages", "paired"),
    [
        (lambda y: y[:, :1], torch.ones(8), True),
        (lambda y: y[:, 0], torch.ones(8, 1), True),
        (lambda y: y[:, :1], torch.ones(8, 8), True),
        (lambda y: y[:, 0], torch.ones(8), False),
        (lambda y: y[:, :1], torch.ones(8, 1), False),
        (lambda y: y, torch.ones(8, 1), False),
        (lambda y: y @ y.T, torch.ones(8, 1), False),
        (lambda y: y @ y.T, torch.ones(8), False),
    ],
)
def test_a_column_times_a_row_is_named(values, advantages, paired):
    loop = one_step(lambda y: F.mse_loss(y, VALUES) - (values(y) * advantages).mean())
    [event] = loop.events()
    assert ("column_times_row" in event.attributes.get("wiring", "")) is paired


def test_an_activation_behind_the_output_of_the_model_is_told_from_its_last_module():
    [behind] = one_step(lambda y: F.cross_entropy(y.relu(), CLASSES)).events()
    model = torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.ReLU())
    [inside] = one_step(lambda y: F.cross_entropy(y, CLASSES), model).events()
    assert behind.attributes["wiring"] == inside.attributes["wiring"]
    assert behind.attributes["activation_outside"] == 1
    assert "activation_outside" not in inside.attributes


def test_an_activation_of_a_later_output_of_the_model_is_not_outside():
    class Two(torch.nn.Linear):
        def forward(self, x):
            hidden = super().forward(x)
            return hidden, hidden.sigmoid()

    [event] = one_step(lambda y: F.mse_loss(y[1], VALUES), Two(6, 3)).events()
    assert event.attributes["last_activation"] == "sigmoid"
    assert "activation_outside" not in event.attributes


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_graph_that_was_freed_gives_the_kind_without_values(reduction):
    y = torch.nn.Linear(6, 3)(torch.rand(8, 6))
    loss = F.cross_entropy(y, CLASSES, reduction=reduction) * torch.tensor(2.0)
    loss.backward()
    [found] = criteria(loss).criteria
    assert found.kind == "CrossEntropyLoss"
    assert found.target is None


def test_the_weight_of_positive_targets_is_read():
    weight = torch.tensor([100.0, 30.0, 200.0])
    [event] = one_step(
        lambda y: F.binary_cross_entropy_with_logits(y, VALUES, pos_weight=weight)
    ).events()
    assert event.attributes["positive_weight"] == 30


# The unit of the loss.


@pytest.mark.parametrize(
    ("scale", "loss"),
    [
        (1 / 64, lambda y: F.cross_entropy(y, CLASSES) / 8 / 8),
        (100.0, lambda y: 100 * F.mse_loss(y, VALUES)),
        (8.0, lambda y: F.cross_entropy(y, CLASSES, reduction="sum")),
        (24.0, lambda y: F.mse_loss(y, VALUES, reduction="sum")),
        (3.0, lambda y: F.mse_loss(y, VALUES, reduction="sum") / 8),
        (3.0, lambda y: F.mse_loss(y, VALUES, reduction="none").sum(1).mean()),
        (3.0, lambda y: (y - VALUES).square().sum() / len(y) + y.square().mean()),
        (8.0, lambda y: -(VALUES.softmax(1) * y.log_softmax(1)).sum()),
        (6.0, lambda y: F.cross_entropy(y, CLASSES, ignore_index=1, reduction="sum") * 3),
        (2.0, lambda y: torch.stack([F.cross_entropy(y, CLASSES), losses(2 * y).mean()]).sum()),
    ],
)
def test_the_factor_on_the_mean_loss_is_read_in_the_graph(scale, loss):
    [event] = one_step(loss).events()
    assert event.attributes["scale"] == pytest.approx(scale)


@pytest.mark.parametrize(
    "loss",
    [
        lambda y: F.cross_entropy(y, CLASSES),
        lambda y: losses(y).mean(),
        lambda y: F.cross_entropy(y, VALUES.softmax(1)),
        lambda y: F.mse_loss(y, VALUES, reduction="sum") / 24,
        lambda y: -(VALUES.softmax(1) * y.log_softmax(1)).sum(1).mean(),
        lambda y: F.mse_loss(y, VALUES).sqrt(),
        lambda y: (losses(y) * (CLASSES == 1)).sum() / 6,
        lambda y: F.mse_loss(y, VALUES) * y.exp().mean(),
        lambda y: 0.3 * F.cross_entropy(2 * y, CLASSES) + F.cross_entropy(y, CLASSES),
        lambda y: F.cross_entropy(y[0], CLASSES[0]),
    ],
)
def test_a_mean_and_a_factor_that_is_not_known_have_no_scale(loss):
    [event] = one_step(loss).events()
    assert "scale" not in event.attributes


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(
    "loss",
    [
        lambda y: F.mse_loss(y[:, :1], torch.rand(8)),
        lambda y: F.mse_loss(y[:, 0], torch.rand(8, 1)),
        lambda y: F.mse_loss(y, torch.rand(8, 1)),
        lambda y: F.l1_loss(y[:, :1], torch.rand(8)),
        lambda y: (y[:, :1] - torch.rand(5)).square().mean(),
        lambda y: (y - torch.rand(8, 1)[:, None]).square().mean(),
    ],
)
def test_a_broadcast_of_prediction_and_target_is_named(loss):
    [event] = one_step(loss).events()
    assert event.attributes["wiring"] == "prediction_and_target_broadcast"


@pytest.mark.parametrize(
    "loss",
    [
        lambda y: (y[:, :1] - torch.rand(8)).square().mean(),
        lambda y: (torch.rand(8) - y[:, :1]).abs().mean(),
        lambda y: (torch.rand(8, 1) - y[:, 0]).square().sum(),
    ],
)
def test_a_difference_of_all_pairs_is_named_although_no_target_was_given(loss):
    [event] = one_step(loss).events()
    assert event.attributes["wiring"] == "prediction_and_target_broadcast,all_pairs_compared"


@pytest.mark.parametrize("target", [torch.ones(1).expand(8, 3), torch.ones(()).expand(8, 3)])
def test_a_constant_target_is_no_broadcast(target):
    [event] = one_step(lambda y: F.mse_loss(y, target)).events()
    assert "wiring" not in event.attributes


def test_the_last_activation_is_named():
    [event] = one_step(lambda y: F.mse_loss(y.tanh(), VALUES)).events()
    assert event.attributes["last_activation"] == "tanh"


def test_scaled_activations_are_no_conflict():
    [event] = one_step(lambda y: F.cross_entropy(30 * (y / 30).tanh(), CLASSES)).events()
    assert "wiring" not in event.attributes


def test_packed_tensors_are_not_unpacked():
    unpacked = []
    loop = Loop()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: unpacked.append(1) or x):
        loss = KINDS["CrossEntropyLoss"](loop.model(X))
    loop.capture.loss(loss)
    assert not unpacked
    loop.step(loss, report=False)
    assert loop.events()[0].text == "CrossEntropyLoss"
