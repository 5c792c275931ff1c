"""A model without any bias cannot learn that its classes are unequal: TV704."""

import pytest
import torch
from torch import nn

from helpers.first_steps import found, record, the_same_weights_every_time  # noqa: F401
from trainvitals.diagnosis.rules.output_bias_prior import OutputBiasPrior

STEPS = 200


def history(model, *, positive=0.9, ones=False, classes=False, rate=0.02):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 8, generator=g)
    x[:, 0] = 1.0 if ones else x[:, 0]
    y = (torch.rand(1024, generator=g) < positive).float()
    loss = nn.functional.binary_cross_entropy_with_logits
    y = y.long() if classes else y[:, None]
    loss = nn.functional.cross_entropy if classes else loss
    optimizer = torch.optim.Adam(model.parameters(), rate)
    return record(model, loss, x, y, optimizer, steps=STEPS)


@pytest.mark.parametrize("classes", [False, True])
def test_the_frequencies_that_no_parameter_represents_are_a_warning(classes):
    model = nn.Linear(8, 1 + classes, bias=False)
    finding = found(OutputBiasPrior, history(model, classes=classes))
    assert finding.severity == "warning"
    assert finding.summary.startswith("Output bias: no layer has a bias")


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (nn.Linear(8, 1), {}),
        (nn.Linear(8, 1, bias=False), {"ones": True}),
        (nn.Linear(8, 1, bias=False), {"positive": 0.5}),
        (nn.Linear(8, 1, bias=False), {"positive": 0.5, "rate": 3.0}),  # a loss above ln 2
    ],
)
def test_a_bias_a_column_of_ones_or_equal_classes_are_met_with_silence(model, changes):
    finding = found(OutputBiasPrior, history(model, **changes))
    assert finding is None or finding.severity == "info"
