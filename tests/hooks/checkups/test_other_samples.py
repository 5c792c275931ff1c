"""A checkup shows whether the output of a sample depends on the other samples of its batch."""

import pytest
import torch
from torch import nn

import trainvitals
from trainvitals.api.schema import Diagnosis, Verdict

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 5, (64,), generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 5))


def checked(model, **more) -> Diagnosis:
    return trainvitals.checkup(model, (X, Y), nn.CrossEntropyLoss(), **more)


class Centred(nn.Module):
    """Subtracts the mean of the batch from the features, or divides by it."""

    def __init__(self, by) -> None:
        super().__init__()
        self.body, self.by = network(), by

    def forward(self, x):
        return self.body(self.by(x))


class Failing(Centred):
    def forward(self, x):
        if not self.training:
            raise RuntimeError("not made for evaluation")
        return super().forward(x)


class TestOtherSamples:
    @pytest.mark.parametrize(
        "by",
        [lambda x: x - x.mean(0), lambda x: x / x.norm(dim=0), lambda x: x.flip(0)],
        ids=["centred", "norm", "flipped"],
    )
    def test_a_model_whose_output_depends_on_the_other_samples_is_found(self, by):
        (finding,) = [f for f in checked(Centred(by)).findings if f.code == "TV807"]
        assert "other samples are replaced" in finding.summary

    @pytest.mark.parametrize(
        "by",
        [
            lambda x: x - x.mean(1, keepdim=True),
            nn.BatchNorm1d(16),
            nn.Dropout(0.5),
            lambda x: x + torch.randn(x.shape),
        ],
        ids=["centred features", "batch norm", "dropout", "noise"],
    )
    def test_a_model_of_independent_samples_is_silent(self, by):
        assert "TV807" not in {f.code for f in checked(Centred(by)).findings}

    def test_one_sequence_without_a_dimension_for_samples_is_silent(self):
        class Tagger(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn, self.head = nn.LSTM(16, 8), nn.Linear(8, 5)

            def forward(self, x):
                return self.head(self.rnn(x)[0])

        assert "TV807" not in {f.code for f in checked(Tagger()).findings}

    def test_a_model_that_does_not_run_in_eval_mode_is_checked_otherwise(self):
        assert checked(Failing(lambda x: x - x.mean(0))).verdict is Verdict.HEALTHY

    def test_the_mode_stays(self):
        model = Centred(lambda x: x)
        checked(model, overfit_steps=2)
        assert model.training
        assert model.body.training
