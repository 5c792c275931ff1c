"""TV802 names inputs of which nearly all tokens are the same one."""

import numpy as np

from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.constant_or_duplicate_input import ConstantOrDuplicateInput


def run(share, loss):
    known = {"loss": loss, "input_token_share": np.full(len(loss), share)}
    return [*ConstantOrDuplicateInput().check(Example(len(loss)).scalars(**known).history)]


def test_it_is_a_note_at_first_and_a_warning_if_the_loss_does_not_fall():
    noise = 1.1 + 0.01 * np.sin(np.arange(70.0))
    [early], [late] = run(0.98, noise[:30]), run(0.98, noise)
    assert (early.severity, late.severity) == ("info", "warning")
    assert "98 % of the tokens" in late.summary


def test_it_stays_a_note_while_the_loss_falls():
    [found] = run(0.98, np.linspace(1.1, 0.2, 70))
    assert found.severity == "info"


def test_other_tokens_are_not():
    assert not run(0.9, np.full(70, 1.1))
    assert not run(0.0, np.full(70, 1.1))
