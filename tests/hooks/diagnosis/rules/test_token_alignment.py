"""Token models whose targets are shifted, or of whose positions the loss reads one (TV403, TV407,
TV808), and the programs that look like them."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.fixing import applied  # noqa: E402
from helpers.token_models import (  # noqa: E402
    BATCH,
    LENGTH,
    VOCABULARY,
    Gru,
    Transformer,
    of_all,
    shifted,
    text,
    trained,
)
from trainvitals.api.schema import Severity  # noqa: E402

CODES = ("TV403", "TV407", "TV808")
MODELS = pytest.mark.parametrize("make", [Transformer, Gru])


def found(model, loss, **how):
    """Return the findings of the three rules after a training on `loss(model)`."""
    findings = trained(model, loss, **how).diagnosis.findings
    return [f for f in findings if f.code in CODES]


def language_model(make, shift, fix="", **how):
    """Train on targets that are shifted, with the fix of a finding if one is given."""
    torch.manual_seed(0)

    def loss(model):
        x, y = shifted(shift, text())
        if "instead of the loss" in fix:
            return applied(fix, prediction=model(x), x=x, y=y)["loss"]
        if fix:
            names = applied(fix, x=x, y=y)
            x, y = names["x"], names["y"]
        return of_all(model(x), y)

    return found(make(), loss, **how)


@MODELS
@pytest.mark.parametrize(
    ("shift", "code"), [(-1, "TV808"), (0, "TV808"), (2, "TV403"), (5, "TV403")]
)
def test_shifted_targets_are_named_after_three_steps_and_the_fix_aligns_them(make, shift, code):
    [finding] = language_model(make, shift, steps=3)
    assert (finding.code, finding.severity, finding.since_step) == (code, Severity.WARNING, 0)
    assert str(shift) in finding.summary or shift == 0
    assert finding.evidence[0].seen == shift
    assert language_model(make, shift, finding.fix) == []


@MODELS
def test_next_tokens_are_silent(make):
    assert language_model(make, 1, steps=60) == []


def test_labels_that_are_shifted_twice_are_named_and_the_loss_is_the_fix():
    def loss(model):
        x, y = shifted(1, text())
        return of_all(model(x)[:, :-1], y[:, 1:])

    [finding] = found(Gru(), loss)
    assert finding.code == "TV403"
    assert "2 positions later" in finding.summary
    assert language_model(Gru, 1, finding.fix) == []


class ShiftsItself(Gru):
    """A model that computes its loss, and shifts the labels for it, as those of transformers."""

    def forward(self, input_ids, labels):
        logits = super().forward(input_ids)
        following = F.pad(labels, (0, 1), value=-100)[:, 1:]
        return {"loss": of_all(logits, following), "logits": logits}


@pytest.mark.parametrize("shift", [0, 1])
def test_a_model_that_shifts_the_labels_itself_takes_them_unshifted(shift):
    def loss(model):
        x, y = shifted(shift, text())
        return model(input_ids=x, labels=y)["loss"]

    findings = found(ShiftsItself(), loss)
    assert [f.evidence[0].seen for f in findings] == [2] * shift
    for finding in findings:
        assert language_model(Gru, 0, finding.fix) == []  # a loss of its own


def test_rolled_labels_are_named():
    def loss(model):
        x, y = shifted(1, text())
        return of_all(model(x), y.roll(-5, 1))

    [finding] = found(Transformer(), loss)
    assert "6 positions later" in finding.summary


def test_targets_that_are_aligned_again_close_the_finding():
    steps = iter(range(100))

    def loss(model):
        return of_all(*(lambda x, y: (model(x), y))(*shifted(3 if next(steps) < 6 else 1, text())))

    findings = found(Gru(), loss, steps=40)
    assert [f for f in findings if f.is_open] == []


@MODELS
@pytest.mark.parametrize("select", [lambda y: y[:, 0], lambda y: y[:, :1].squeeze(1)])
def test_a_loss_of_the_first_token_only_is_named_and_the_fix_reads_all(make, select):
    def loss(model):
        x, y = shifted(1, text())
        return F.cross_entropy(select(model(x)), y[:, 0])

    [finding] = found(make(), loss)
    assert (finding.code, finding.severity) == ("TV407", Severity.WARNING)
    assert "1 of 24 positions" in finding.summary
    assert language_model(make, 1, finding.fix) == []


def test_a_loss_of_the_last_token_only_is_a_note():
    def loss(model):
        x, y = shifted(1, text())
        return F.cross_entropy(model(x)[:, -1], y[:, -1])

    [finding] = found(Gru(), loss)
    assert (finding.code, finding.severity, finding.fix) == ("TV407", Severity.INFO, "")


# Programs that look like them.


class Heads(nn.Module):
    """A language model with a second head for a later token."""

    def __init__(self):
        super().__init__()
        self.base, self.later = Gru(32), nn.Linear(32, VOCABULARY)
        self.next = nn.Linear(32, VOCABULARY)

    def forward(self, x):
        y = self.base(x)
        return self.later(y), self.next(y)


def several_tokens(model):
    rows = text()
    later, following = model(rows[:, :LENGTH])
    return of_all(later, rows[:, 2 : LENGTH + 2]) + of_all(following, rows[:, 1 : LENGTH + 1])


def periodic(model):
    """A period of four: the next token is also the one five later."""
    rows = torch.randint(VOCABULARY, (BATCH, 4)).repeat(1, 10)
    return of_all(model(rows[:, :LENGTH]), rows[:, 5 : LENGTH + 5])


def constant(model):
    rows = torch.full((BATCH, LENGTH), 7)
    return of_all(model(rows), rows)


def masked(model):
    """A masked language model: targets count where the input was replaced."""
    x = text(LENGTH)
    chosen = torch.rand(x.shape) < 0.2
    given = torch.where(chosen & (torch.rand(x.shape) < 0.9), 0, x)
    return of_all(model(given), torch.where(chosen, x, -100))


def tags(model):
    """Classes of each token, such as parts of speech."""
    x = text(LENGTH)
    return of_all(model(x), (3 * x + 1) % VOCABULARY)


def translation(model):
    x = text(LENGTH)
    return of_all(model(x), (5 * x.flip(1) + 2) % VOCABULARY)


def classes_of_sequences(model):
    """Three classes, read at the first position."""
    x = text(LENGTH)
    return F.cross_entropy(model(x)[:, 0], x[:, 5:9].sum(1) % 3)


def many_classes_of_sequences(model):
    """As many classes as tokens, read at the first position."""
    x = text(LENGTH)
    return F.cross_entropy(model(x)[:, 0], x.sum(1) % VOCABULARY)


def modular_sums(model):
    """Four tokens, the answer at the last one."""
    x = torch.randint(VOCABULARY, (BATCH, 4))
    return F.cross_entropy(model(x)[:, -1], x.sum(1) % VOCABULARY)


def answers_only(model):
    """A prompt that is not trained on: the last six tokens count."""
    x, y = shifted(1, text())
    mask = torch.zeros(x.shape, dtype=torch.bool)
    mask[:, -6:] = True
    return F.cross_entropy(model(x)[mask], y[mask])


def last_six(model):
    x, y = shifted(1, text())
    return of_all(model(x)[:, -6:], y[:, -6:])


SILENT = {
    "several_tokens": (Heads, several_tokens),
    "periodic": (Gru, periodic),
    "constant": (Gru, constant),
    "masked": (Transformer, masked),
    "tags": (Gru, tags),
    "translation": (Gru, translation),
    "classes_of_sequences": (lambda: Gru(3), classes_of_sequences),
    "many_classes_of_sequences": (Gru, many_classes_of_sequences),
    "modular_sums": (Gru, modular_sums),
    "answers_only": (Gru, answers_only),
    "last_six": (Gru, last_six),
}


@pytest.mark.parametrize("name", SILENT)
def test_look_alikes_are_silent(name):
    torch.manual_seed(0)
    make, loss = SILENT[name]
    assert found(make(), loss, steps=20) == []


def test_a_forecast_of_numbers_several_steps_ahead_is_silent():
    model = nn.GRU(1, 8, batch_first=True)
    head = nn.Linear(8, 1)
    both = nn.ModuleList([model, head])

    def loss(_):
        wave = torch.sin(torch.rand(BATCH, 1) * 6 + torch.arange(32) / 3)[..., None]
        return F.mse_loss(head(model(wave[:, :24])[0]), wave[:, 5:29])

    assert found(both, loss, steps=20) == []
