"""The shift of a token model's targets against its input, and the positions that the loss reads."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.supervised_loop import Loop
from trainvitals.capture.graph_nodes import operation
from trainvitals.capture.supervised_positions import positions_read
from trainvitals.capture.supervised_tokens import shift_of

GENERATOR = torch.Generator().manual_seed(0)
SHIFTS = range(-1, 9)


def random(*shape, tokens=16):
    return torch.randint(0, tokens, shape, generator=GENERATOR)


TEXT = random(8, 34)
X = TEXT[:, 1:21]


def shift(x, target, first=0):
    found = shift_of(x, target, target != -100, first)
    return None if found is None else float(found)


def target(k):
    return TEXT[:, 1 + k : 21 + k]


@pytest.mark.parametrize("k", SHIFTS)
def test_the_shift_is_found_in_any_layout_and_type(k):
    y = target(k)
    assert shift(X, y) == k
    assert shift(X, y.reshape(-1)) == k
    assert shift(X.int(), y) == k
    assert shift(X.byte(), y) == k
    assert shift(X.T, y.T.reshape(-1)) == k  # positions first, as in recurrent models


def test_larger_shifts_and_other_targets_have_none():
    assert shift(X, target(9)) != shift(X, target(9))
    assert shift(X, random(8, 20)) != shift(X, random(8, 20))


def test_labels_that_were_rolled_match_where_they_do_not_wrap():
    assert shift(X, target(1).roll(-5, 1)) == 6


def test_the_usual_slices_of_outputs_and_labels():
    assert shift(X, X[:, 1:]) == 1
    assert shift(X, X[:, 2:]) == 2
    assert shift(X, X[:, 1:], first=1) == 0
    assert shift(X, X[:, 3:4], first=2) == 1
    assert shift(X, X[:, :-1], first=1) == -1


def test_ignored_targets_do_not_count():
    y = target(2).clone()
    y[:, 4:] = -100
    assert shift(X, y) == 2
    y[:] = -100
    assert torch.tensor(shift(X, y)).isnan()


def test_repeated_tokens_are_next_tokens():
    constant = torch.ones(8, 20, dtype=torch.long)
    assert shift(constant, constant) == 1
    period = torch.arange(40).remainder(5).repeat(8, 1)
    assert shift(period[:, :20], period[:, 6:26]) == 1
    assert torch.tensor(shift(period[:, :20], period[:, 3:23])).isnan()  # 3 or −2
    slow = torch.arange(40).div(13, rounding_mode="floor").repeat(8, 1) + random(8, 1)
    assert shift(slow[:, :20], slow[:, 2:22]) != 2


def test_few_equal_targets_can_be_chance():
    assert torch.tensor(shift(X[:2, :4], target(2)[:2, :4] * 0 + X[:2, 2:3])).isnan()
    two = random(8, 30, tokens=2)
    assert shift(two[:, :20], two[:, 5:25]) == 5  # 120 equal ones are no chance
    assert torch.tensor(shift(two[:, :20], random(8, 20, tokens=2))).isnan()
    unequal = (random(4, 30, tokens=20) == 0).long()  # 95 % of one token
    assert shift(unequal[:, :20], unequal[:, 5:25]) != 5


def test_long_sequences_are_compared_at_their_beginning():
    long = random(1, 9_000)
    assert shift(long[:, :8_900], long[:, 2:8_902]) == 2


def test_shapes_that_do_not_fit_have_no_shift():
    assert shift(X, random(7)) is None
    assert shift(X, X[:, :3], first=18) is None


# Positions in the graph.


LOGITS = (4, 12, 13)


def read(select, logits=None):
    """Return the positions that the loss of `select(logits)` reads, of logits (4, 12, 13)."""
    logits = torch.randn(LOGITS, requires_grad=True) * 1 if logits is None else logits
    chosen = select(logits)
    n = chosen.numel() // 13
    shape = (n,) if chosen.dim() == 2 else (chosen.shape[0], chosen.shape[2])
    node = F.cross_entropy(chosen, torch.zeros(shape, dtype=torch.long)).grad_fn
    assert operation(node).startswith("NllLoss")
    found = positions_read(node, 13, logits.grad_fn._sequence_nr())
    assert found.of_output
    return found.first


@pytest.mark.parametrize(
    ("select", "first"),
    [
        (lambda y: y.flatten(0, 1), 0),
        (lambda y: y[:, :-1].reshape(-1, 13).float(), 0),
        (lambda y: y[..., 1:, :].contiguous().view(-1, 13), 1),
        (lambda y: y[:, 2:][:, 1:-1].flatten(0, 1), 3),
        (lambda y: y[:, -1], 11),
        (lambda y: y[:, -1, :], 11),
        (lambda y: y[:, 0], 0),
        (lambda y: y[:, -3:].flatten(0, 1), 9),
        (lambda y: y[:, 4:5].squeeze(1), 4),
        (lambda y: y.transpose(1, 2)[:, :, 2:], 2),
        (lambda y: y[:, 2:].transpose(1, 2), 2),
        (lambda y: y.log_softmax(-1)[:, 5], 5),
    ],
)
def test_the_first_position_is_that_of_the_slice(select, first):
    assert read(select) == first


@pytest.mark.parametrize(
    "select",
    [
        lambda y: y[:, [0]].flatten(0, 1),
        lambda y: y[torch.ones(4, 12, dtype=torch.bool)],
        lambda y: y[:, ::2].flatten(0, 1),
        lambda y: y[1:].flatten(0, 1),
    ],
)
def test_positions_that_are_selected_otherwise_are_not_known(select):
    assert read(select) is None


# What a training records.


class Tokens(nn.Module):
    """Logits of 16 classes, with positions in front of the tokens or a tuple around them."""

    def __init__(self, prefix=0, classes=16, wrap=lambda y: y):
        super().__init__()
        self.embedding, self.head = nn.Embedding(16, 8), nn.Linear(8, classes)
        self.prefix, self.wrap = prefix, wrap

    def forward(self, x):
        before = self.embedding(x[:, :1].repeat(1, self.prefix))
        return self.wrap(self.head(torch.cat([before, self.embedding(x)], 1)))


def recorded(loss, model=None, x=X, **scalars):
    """Return target_shift and positions_read_share after one step on `loss(output)`."""
    loop = Loop(model or Tokens())
    loop.step(loss(loop.model(x)))
    return tuple(loop.scalar(name) for name in ("target_shift", "positions_read_share"))


def of_all(y, wanted):
    return F.cross_entropy(y.flatten(0, 1), wanted.flatten())


def test_a_training_records_the_shift_and_the_positions_read():
    assert recorded(lambda y: of_all(y, target(2))) == ([2], [1])
    cut = pytest.approx(19 / 20)
    assert recorded(lambda y: of_all(y[:, :-1], X[:, 1:])) == ([1], [cut])
    assert recorded(lambda y: of_all(y[:, 1:], X[:, 1:])) == ([0], [cut])
    assert recorded(lambda y: F.cross_entropy(y[:, 0], X[:, 1])) == ([1], [pytest.approx(1 / 20)])


def test_a_model_that_returns_a_tuple_or_a_dict_is_read_too():
    for wrap in (lambda y: (y, None), lambda y: {"logits": y}):
        model = Tokens(wrap=wrap)
        found = recorded(
            lambda y: F.cross_entropy(
                (y["logits"] if isinstance(y, dict) else y[0])[:, 0], X[:, 1]
            ),
            model,
        )
        assert found == ([1], [pytest.approx(1 / 20)])


def test_a_prefix_in_front_of_the_tokens_is_no_shift():
    model = Tokens(prefix=3)
    assert recorded(lambda y: of_all(y[:, 2:-1], X), model) == ([], [])


def test_masked_positions_do_not_count():
    mask = torch.zeros(8, 20)
    mask[:, :10] = 1
    wrong = target(1).clone()
    wrong[:, 10:] = 3

    def loss(y):
        return (F.cross_entropy(y.transpose(1, 2), wrong, reduction="none") * mask).sum()

    assert recorded(loss)[0] == [1]


def test_several_losses_of_which_one_is_the_next_token_have_the_shift_one():
    assert recorded(lambda y: of_all(y, target(3)) + of_all(2 * y, target(1)))[0] == [1]
    assert recorded(lambda y: of_all(y, target(3)) + of_all(2 * y, target(2)))[0] == []


@pytest.mark.parametrize("shifts", [(3, 1), (1, 3)])
def test_several_reported_losses_of_one_output_have_no_other_shift(shifts):
    loop = Loop(Tokens())
    y = loop.model(X)
    heads = [of_all((i + 1) * y, target(k)) for i, k in enumerate(shifts)]
    loop.capture.loss(heads[0])
    loop.step(heads[1] + heads[0].detach())
    assert loop.scalar("target_shift") == ([1] if shifts[0] == 1 else [])


def test_a_loss_that_is_reported_twice_keeps_its_shift():
    loop = Loop(Tokens())
    loss = of_all(loop.model(X), target(2))
    loop.capture.loss(loss)
    loop.step(loss)
    assert loop.scalar("target_shift") == [2]
    parts = Loop(Tokens())
    loss = F.cross_entropy(parts.model(X)[:, 3], X[:, 5])
    parts.step({"loss": 2 * loss, "tokens": loss})
    assert parts.scalar("target_shift") == [2]
    assert parts.scalar("positions_read_share") == [pytest.approx(1 / 20)]


class Copier(Tokens):
    """A model with a second input, as the decoder of an encoder-decoder."""

    def forward(self, x, other):
        return super().forward(x)


def test_a_decoder_that_is_given_the_target_so_far_has_no_shift():
    before = torch.cat([torch.zeros_like(X[:, :1]), X[:, :-1]], 1)
    for other, shifts in ((before, []), (torch.ones_like(X), [0]), (target(1), [0])):
        loop = Loop(Copier())
        loop.step(of_all(loop.model(X, other), X))
        assert loop.scalar("target_shift") == shifts


def test_micro_batches_with_one_shift_have_it():
    loop = Loop(Tokens())
    loop.capture.loss(of_all(loop.model(X), target(2)))
    loop.step(of_all(loop.model(X), target(2)))
    assert loop.scalar("target_shift") == [2]


def test_other_inputs_and_losses_record_neither():
    assert recorded(
        lambda y: F.cross_entropy(y, X[:, 0]), nn.Linear(20, 16), X.float()
    ) == ([], [])  # fmt: skip
    assert recorded(lambda y: F.mse_loss(y[..., 0], X.float())) == ([], [])


def test_classes_that_are_no_tokens_have_no_share_of_positions():
    for classes in (2, 10):
        answers = random(8, tokens=classes)
        model = Tokens(classes=classes)
        assert recorded(lambda y, a=answers: F.cross_entropy(y[:, 0], a), model)[1] == []
    short = X[:, :7]
    assert recorded(lambda y: F.cross_entropy(y[:, 0], short[:, 1]), x=short)[1] == []
