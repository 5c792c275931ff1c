"""The share of the targets that the model's input contains: unshifted labels, leaked columns."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trainvitals.capture import Capture
from trainvitals.capture.supervised_inputs import first_input, given_to, target_in_input
from trainvitals.wire import Frame, Layout, Scalar, Stream

TOKENS = torch.randint(0, 11, (6, 9), generator=torch.Generator().manual_seed(0))
FEATURES = torch.randn(32, 5, generator=torch.Generator().manual_seed(1))
VALUES = torch.randn(32, 1, generator=torch.Generator().manual_seed(2))
LABELS = torch.randint(0, 3, (32,), generator=torch.Generator().manual_seed(3))


def share(x, target, ignore_index=None, classes=0):
    found = [float(x) for x in target_in_input(x, target, ignore_index, classes).values()]
    return found[0] if found else None


def test_labels_that_were_not_shifted_are_the_tokens_themselves():
    assert share(TOKENS, TOKENS, -100, 11) == 1
    assert share(TOKENS, TOKENS.reshape(-1), -100, 11) == 1
    assert share(TOKENS, TOKENS[:, :-1].reshape(-1), -100, 11) == 1


def test_shifted_labels_equal_the_tokens_by_chance_only():
    assert share(TOKENS[:, :-1], TOKENS[:, 1:], -100, 11) < 0.4
    assert share(TOKENS, TOKENS[:, 1:].reshape(-1), -100, 11) < 0.4


def test_a_decoder_that_is_given_the_target_so_far_may_copy():
    so_far = torch.cat([TOKENS[:, :1] * 0 + 11, TOKENS[:, :-1]], 1)
    mask = torch.ones_like(TOKENS)
    for others in [(so_far,), (mask, so_far)]:
        assert given_to((TOKENS, *others), {}).others == others
        [copied] = target_in_input(TOKENS, TOKENS, -100, 11, others).values()
        assert copied.isnan()
    columns = target_in_input(TOKENS.T, TOKENS.T, -100, 11, (so_far.T,))
    assert next(iter(columns.values())).isnan()
    [unshifted] = target_in_input(TOKENS, TOKENS, -100, 11, (mask,)).values()
    assert unshifted == 1


def test_ignored_positions_do_not_count():
    target = TOKENS.clone()
    target[:, 3:] = -100
    assert share(TOKENS, target, -100, 11) == 1


@pytest.mark.parametrize("column", [VALUES, 8 * VALUES, 3 - VALUES])
def test_a_column_that_determines_the_target_linearly_is_found(column):
    assert share(torch.cat([FEATURES, column], 1), VALUES) == 1
    assert share(FEATURES, VALUES) == 0


def test_a_class_number_or_an_indicator_among_the_features_is_found():
    assert share(torch.cat([FEATURES, LABELS[:, None] * 2.0], 1), LABELS, -100, 3) == 1
    assert share(torch.cat([F.one_hot(LABELS).float(), FEATURES], 1), LABELS, -100, 3) == 1
    assert share(FEATURES, LABELS, -100, 3) == 0


def test_a_constant_column_and_a_nan_are_no_targets():
    constant, broken = torch.ones(32, 1), FEATURES.clone()
    broken[0, 0] = torch.nan
    assert share(torch.cat([FEATURES, constant], 1), VALUES) == 0
    assert share(broken, VALUES) == 0


def test_what_cannot_be_compared_is_absent():
    assert share(FEATURES, FEATURES) is None  # an autoencoder's target is its input
    assert share(FEATURES[:8], VALUES[:8]) is None  # too few samples
    assert share(VALUES, 2 * VALUES + 1) is None  # the line of an exercise
    assert share(torch.rand(32, 3, 8, 8), LABELS, -100, 3) is None  # images
    assert share(TOKENS, LABELS[:6], -100, 3) is None


def test_the_input_is_the_first_argument_that_is_no_label():
    labels, mask = torch.zeros(1), torch.ones(1)
    assert first_input((TOKENS, labels), {}) is TOKENS
    assert first_input((), {"labels": labels, "input_ids": TOKENS, "mask": mask}) is TOKENS
    assert first_input(({"labels": labels, "input_ids": TOKENS},), {}) is TOKENS
    assert first_input(([TOKENS, labels],), {}) is TOKENS
    assert first_input((), {}) is None
    assert first_input(("text", TOKENS), {}) is None


class Tiny(nn.Module):
    """A language model that takes its tokens as a keyword argument."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 11)

    def forward(self, input_ids):
        return self.head(self.embedding(input_ids))


def recorded(model, loss):
    """Return the recorded share of two steps on `loss(model)`, which calls the model."""
    records = []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    capture = Capture(model, optimizer, emit=records.append, every=1)
    for _ in range(2):
        optimizer.zero_grad()
        value = loss(model)
        capture.loss(value)
        value.backward()
        optimizer.step()
    capture.detach()
    names, found = [], []
    for record in records:
        if isinstance(record, Layout) and record.stream is Stream.SCALAR:
            names = [place.name for place in record.places]
        if (
            isinstance(record, Frame)
            and record.stream is Stream.SCALAR
            and Scalar.TARGET_IN_TOKENS_SHARE in names
        ):
            found += record.values[:, names.index(Scalar.TARGET_IN_TOKENS_SHARE), 0].tolist()
    return found


def language_loss(target):
    return lambda model: F.cross_entropy(model(input_ids=TOKENS).flatten(0, 1), target.flatten())


def test_a_training_records_the_share_of_its_targets():
    assert recorded(Tiny(), language_loss(TOKENS)) == [1, 1]
    assert max(recorded(Tiny(), language_loss(TOKENS.roll(-1, 1)))) < 0.4


def test_a_copy_of_a_watched_model_has_no_trace_of_the_hook():
    model = Tiny()
    capture = Capture(model, torch.optim.SGD(model.parameters(), 0.1), emit=lambda _: None)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not other._forward_hooks
        assert not other._forward_hooks_with_kwargs
        assert other(input_ids=TOKENS).shape == (6, 9, 11)
    capture.detach()
    assert not model._forward_hooks_with_kwargs
    assert type(model._forward_hooks_with_kwargs).__name__ == "OrderedDict"
