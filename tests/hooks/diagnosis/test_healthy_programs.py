"""Healthy programs that look like a fault have no alarm of the rule that they resemble."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import nn  # noqa: E402

from helpers.bootstrapped_programs import BOOTSTRAPPED  # noqa: E402
from helpers.fine_tuning_programs import FINE_TUNING  # noqa: E402
from helpers.healthy_programs import COPIES, TOKENS, of_logits, tokens, watched  # noqa: E402
from trainvitals.api.schema import Severity  # noqa: E402

SEEDS = (0, 1)
SLOW = {
    *("q_learning_for_longer", "q_learning_at_a_higher_rate", "large_rewards", "huber"),
    *("double", "expected_sarsa", "language_model", "classes_sgd", "numbers_sgd", "two_classes"),
    *("smooth_absolute_error", "classes", "large_batches", "numbers_huber"),
    *("transformer_reverse", "recurrent_reverse"),
}


def programs(table):
    """Return the programs as parameters; each with one seed, the slow ones outside `make test`."""
    return [
        pytest.param(
            program, SEEDS[i % 2], id=name, marks=[pytest.mark.slow] if name in SLOW else []
        )
        for i, (name, program) in enumerate(table.items())
    ]


@pytest.mark.parametrize(("program", "seed"), programs(COPIES))
def test_a_copy_on_purpose_is_no_trivial_target(program, seed):
    outcome = program(seed)
    assert outcome.headlines == [], [f.summary for f in outcome.diagnosis.findings]


@pytest.mark.parametrize(("program", "seed"), programs(BOOTSTRAPPED))
def test_a_loss_that_rises_with_bootstrapped_targets_is_a_note(program, seed):
    outcome = program(seed)
    assert "loss_divergence" not in outcome.headlines
    notes = [f for f in outcome.diagnosis.findings if f.rule == "loss_divergence"]
    assert notes
    assert {f.severity for f in notes} == {Severity.INFO}


@pytest.mark.parametrize(("program", "seed"), programs(FINE_TUNING))
def test_gentle_fine_tuning_has_no_alarm(program, seed):
    outcome = program(seed)
    assert outcome.headlines == [], [f.summary for f in outcome.diagnosis.findings]


class WordModel(nn.Module):
    """A language model whose embedding is called encoder and whose last layer decoder."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Embedding(TOKENS, 32), nn.Linear(32, TOKENS)
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True)

    def forward(self, x, places=None):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.decoder(self.layer(self.encoder(x), src_mask=mask, is_causal=True))


@pytest.mark.parametrize("with_places", [False, True])
def test_a_language_model_whose_labels_were_not_shifted_is_still_found(with_places):
    torch.manual_seed(0)
    model = WordModel()

    def loss(_):
        x = tokens()
        given = (x, torch.arange(x.shape[1]).expand_as(x)) if with_places else (x,)
        return of_logits(model(*given), x)

    outcome = watched(model, torch.optim.Adam(model.parameters(), 1e-3), loss, steps=40)
    assert outcome.headline == "trivial_target"
