"""A number that stands for missing values in a table is named, and its fix heals."""

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.small_runs import layers  # noqa: E402
from helpers.wiring_runs import Run, Seen, train  # noqa: E402
from trainvitals.capture.supervised_inputs import far_value  # noqa: E402
from trainvitals.diagnosis.fixes import Moment, parts  # noqa: E402
from trainvitals.diagnosis.missing_values import KNOWN  # noqa: E402


def table() -> Tensor:
    return torch.randn(400, 8, generator=torch.Generator().manual_seed(0))


def coded(value: float, share: float = 0.05) -> Tensor:
    missing = torch.rand(400, 8, generator=torch.Generator().manual_seed(1)) < share
    return table().masked_fill(missing, value)


def seen(x: Tensor, *, norm: bool = False) -> Seen:
    torch.manual_seed(0)
    y = table()[:, 0].gt(0).long()
    model = layers(8, 16, 2, norm=nn.BatchNorm1d) if norm else layers(8, 16, 2)
    return train(Run(model, F.cross_entropy, data=(x, y), gives_tensors=True))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("value", [-9999.0, 999.0])
def test_a_number_that_stands_for_missing_values_is_named(value, norm):
    found = seen(coded(value), norm=norm)
    assert found.headline == "unnormalised_input"
    assert "a code for a missing value" in found.summary


def counts() -> Tensor:
    """Return columns that are mostly 0, and otherwise 1 or 40."""
    drawn = torch.rand(400, 8, generator=torch.Generator().manual_seed(2))
    return (drawn > 0.9).float() + 39 * (drawn > 0.99).float()


@pytest.mark.parametrize(
    "x",
    [
        table(),
        coded(-4.0),  # a number near the others
        counts(),
        (10 * table()).round().clamp(-15, 15),
        table() / 100 + 12,
    ],
)
def test_other_tables_repeat_no_far_value(x):
    shown = far_value(x[:64])
    assert all(float(value) < 50 for name, value in shown.items() if name.endswith("distance"))


def test_the_value_and_its_distance_are_measured():
    x = table()[:64]
    x[3, 2] = x[9, 2] = -999.0
    shown = {name: float(value) for name, value in far_value(x).items()}
    assert shown["input_far_value"] == -999
    assert 700 < shown["input_far_distance"] < 1500


def test_the_fix_standardises_the_known_values_and_sets_the_others_to_the_mean():
    x = 3 * coded(-9999.0 / 3) + 5 * (coded(-9999.0) > -9999)
    names = {"torch": torch, "x_train": x, "x": x}
    exec(parts(KNOWN)[Moment.BATCH], names)
    fixed, missing = names["x"], x == -9999
    assert missing.any()
    assert (fixed[missing] == 0).all()
    assert abs(float(fixed[~missing].std()) - 1) < 0.05
