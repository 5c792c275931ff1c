"""Faults in networks with normalisation layers and smooth activations, and in losses of numbers:
each has the right headline, and the repaired program has none."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.optim import SGD, Adam  # noqa: E402

import trainvitals  # noqa: E402
from helpers.small_runs import digits, layers, linears, train  # noqa: E402


@pytest.fixture(autouse=True)
def _the_same_weights_every_time():
    torch.manual_seed(0)


def adam(model, rate=3e-3):
    return Adam(model.parameters(), rate)


def two_sides():
    inputs = torch.randn(2000, 16)
    return inputs, ((inputs[:, :4] ** 2).sum(1) > 4).float()[:, None]


def with_norm():
    return layers(16, 64, 32, 1, norm=nn.BatchNorm1d)


def offset_before_a_norm(*, faulty):
    inputs, labels = two_sides()
    model = with_norm()
    data = inputs + 100 * faulty, labels
    return train(model, adam(model), F.binary_cross_entropy_with_logits, data=data, batch=32)


def income_among_the_features(*, faulty):
    inputs, labels = two_sides()
    if faulty:
        inputs[:, 7] = 3e4 + 1e4 * inputs[:, 7]
    model = with_norm()
    loss = F.binary_cross_entropy_with_logits
    return train(model, adam(model), loss, data=(inputs, labels), batch=32)


def gated_blocks_with_negative_biases(*, faulty):
    inputs, labels = digits()
    model = layers(64, 48, 48, 10, activation=nn.GELU)
    if faulty:
        for layer in linears(model)[:-1]:
            nn.init.constant_(layer.bias, -12.0)
    return train(model, adam(model), data=(inputs - 0.3, labels))


def huber_with_large_weights(*, faulty):
    inputs = torch.randn(2000, 12)
    targets = (inputs[:, :1] * inputs[:, 1:2] + 0.5 * inputs[:, 3:4]) / 1.2
    model = layers(12, 64, 64, 1, norm=nn.BatchNorm1d)
    if faulty:
        with torch.no_grad():
            for layer in linears(model):
                layer.weight.mul_(10)
    return train(model, adam(model), F.smooth_l1_loss, data=(inputs, targets), batch=32)


FAULTS = {
    "unnormalised_input": [offset_before_a_norm, income_among_the_features],
    "dead_relu": [gated_blocks_with_negative_biases],
    "init_scale_too_large": [huber_with_large_weights],
}
CASES = [pytest.param(h, p, id=p.__name__) for h, programs in FAULTS.items() for p in programs]


@pytest.mark.parametrize(("headline", "program"), CASES)
def test_the_fault_is_the_headline(headline, program):
    outcome = program(faulty=True)
    assert outcome.headline == headline, [f.summary for f in outcome.diagnosis.findings]


@pytest.mark.parametrize(("headline", "program"), CASES)
def test_the_repaired_program_never_has_a_headline(headline, program):
    outcome = program(faulty=False)
    assert outcome.headlines == [], [f.summary for f in outcome.diagnosis.findings]


def alarms(model, optimizer, loss, batches, steps=120):
    """Train under `watch`, with predictions and targets given; return the rules of all alarms."""
    with trainvitals.watch(
        model, optimizer, collector="off", every=4, total_steps=steps
    ) as monitor:
        for step in range(steps):
            x, y = batches(step)
            optimizer.zero_grad()
            output = model(x)
            monitor.loss(loss(output, y), prediction=output, target=y).backward()
            optimizer.step()
    return {f.rule for f in monitor.diagnosis().alarms}


@pytest.mark.parametrize("repeated", [True, False])
def test_one_batch_that_is_learned_by_heart_is_told_from_many(repeated):
    inputs, labels = two_sides()
    model = layers(16, 64, 32, 1)

    def batches(step):
        at = slice(0, 32) if repeated else slice(32 * (step % 60), 32 * (step % 60) + 32)
        return inputs[at], labels[at]

    found = alarms(model, adam(model), F.binary_cross_entropy_with_logits, batches)
    assert found == ({"constant_or_duplicate_input"} if repeated else set())


@pytest.mark.parametrize("unlabelled", [0, 96])
def test_all_labelled_nodes_of_a_graph_are_not_one_batch(unlabelled):
    inputs, labels = two_sides()
    nodes = inputs[: 32 + unlabelled]
    model = layers(16, 64, 32, 1)

    def of_labelled(output, y):
        return F.binary_cross_entropy_with_logits(output[:32], y)

    optimizer = adam(model)
    with trainvitals.watch(model, optimizer, collector="off", every=4) as monitor:
        for _ in range(120):
            optimizer.zero_grad()
            monitor.loss(of_labelled(model(nodes), labels[:32])).backward()
            optimizer.step()
    found = {f.rule for f in monitor.diagnosis().alarms}
    assert found == (set() if unlabelled else {"constant_or_duplicate_input"})


def test_images_with_as_many_pixels_of_a_class_are_not_one_batch():
    def batches(step):
        order = torch.Generator().manual_seed(step)
        masks = torch.zeros(32, 1, 8, 8)
        for mask, at in zip(
            masks, torch.randint(5, (32, 2), generator=order).tolist(), strict=True
        ):
            mask[0, at[0] : at[0] + 4, at[1] : at[1] + 4] = 1
        return masks + 0.3 * torch.randn(masks.shape, generator=order), masks

    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(),
        nn.Conv2d(12, 1, 1),
    )  # fmt: skip
    assert not alarms(model, adam(model), F.binary_cross_entropy_with_logits, batches)


def class_numbers(output, labels):
    return ((output - labels[:, None].float()) ** 2).mean()


def one_hot(output, labels):
    return ((output - F.one_hot(labels, 10).float()) ** 2).mean()


def one_hot_added(output, labels):
    return ((output - F.one_hot(labels, 10).float()) ** 2).sum(1).mean()


@pytest.mark.parametrize("rate", [0.003, 0.03])
@pytest.mark.parametrize("loss", [class_numbers, one_hot, one_hot_added])
def test_a_squared_error_on_class_numbers_is_told_from_one_on_indicators(loss, rate):
    inputs, labels = digits()
    model = layers(64, 40, 40, 10, activation=nn.SELU)
    if loss is one_hot_added:
        rate /= 10

    def batches(step):
        at = torch.randint(len(inputs), (64,), generator=torch.Generator().manual_seed(step))
        return inputs[at], labels[at]

    found = alarms(model, SGD(model.parameters(), rate, momentum=0.9), loss, batches)
    assert ("loss_task_mismatch" in found) == (loss is class_numbers)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embedding(x)).mean(1))


def tokens():
    inputs = torch.randint(3, 20, (1000, 8))
    labels = torch.randint(3, (1000,))
    inputs[:, 0] = labels
    return inputs, labels


def random_batches(inputs, labels, size=32):
    def batches(step):
        order = torch.Generator().manual_seed(step)
        at = torch.randint(len(inputs), (size,), generator=order)
        return inputs[at], labels[at]

    return batches


@pytest.mark.parametrize("only_head", [True, False])
def test_a_front_part_as_xavier_left_it_is_no_frozen_backbone(only_head):
    model = Encoder()
    trained = model.head if only_head else model
    found = alarms(model, adam(trained), F.cross_entropy, random_batches(*tokens()))
    # TV603 explains that the loss of the head alone still falls at the end.
    assert found - {"undertrained"} == ({"parameter_not_updated"} if only_head else set())


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_binary_cross_entropy_with_the_wrong_sign_is_found(sign):
    model = layers(16, 32, 1)

    def loss(output, target):
        return sign * F.binary_cross_entropy_with_logits(output, target)

    found = alarms(model, adam(model), loss, random_batches(*two_sides()), steps=60)
    assert ("loss_task_mismatch" in found) == (sign < 0)


@pytest.mark.parametrize("share", [0.95, 0.1])
def test_a_dropout_that_leaves_nothing_is_found_for_a_binary_loss(share):
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(share), nn.Linear(64, 1))
    batches = random_batches(*two_sides())
    found = alarms(model, adam(model), F.binary_cross_entropy_with_logits, batches, steps=200)
    assert found == ({"over_regularised"} if share > 0.9 else set())


@pytest.mark.parametrize("rate", [2e-6, 3e-3])
def test_a_rate_is_too_low_if_all_steps_together_hardly_move_a_weight(rate):
    inputs = torch.randn(2000, 12)
    targets = torch.sin(2 * inputs[:, :1]) + inputs[:, 1:2]
    model = layers(12, 64, 64, 1, norm=nn.BatchNorm1d)
    batches = random_batches(inputs, targets)
    found = alarms(model, adam(model, rate), F.smooth_l1_loss, batches, steps=200)
    assert ("learning_rate_too_low" in found) == (rate < 1e-3)


@pytest.mark.parametrize("rate", [3e-1, 3e-3])
def test_a_rate_that_saturates_the_output_is_the_cause_of_the_missing_signal(rate):
    model = layers(16, 64, 32, 1).append(nn.Sigmoid())
    inputs, labels = two_sides()
    with trainvitals.watch(model, optimizer := adam(model, rate), collector="off") as monitor:
        for step in range(100):
            x, y = random_batches(inputs, labels)(step)
            optimizer.zero_grad()
            monitor.loss(F.binary_cross_entropy(model(x), y)).backward()
            optimizer.step()
    headline = monitor.diagnosis().headline
    assert (headline.rule if headline else "") == ("learning_rate_too_high" if rate > 0.1 else "")


@pytest.mark.parametrize(
    ("norm", "factor", "found"),
    [
        (nn.BatchNorm1d, 1e-4, True),
        (nn.BatchNorm1d, 40.0, False),
        (nn.LayerNorm, 1000.0, True),
        (nn.LayerNorm, 1.0, False),
    ],
)
def test_the_scale_of_inputs_before_a_norm_counts_where_the_norm_does_not_remove_it(
    norm, factor, found
):
    inputs, labels = two_sides()
    model = layers(16, 64, 32, 1, norm=norm)
    batches = random_batches(factor * inputs, labels)
    loss = F.binary_cross_entropy_with_logits
    assert ("unnormalised_input" in alarms(model, adam(model), loss, batches, steps=30)) == found


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_one_input_for_all_samples_is_found_behind_a_norm_and_a_dropout(factor):
    inputs, labels = two_sides()
    model = nn.Sequential(
        nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1)
    )
    batches = random_batches(factor * inputs, labels)
    found = alarms(model, adam(model), F.binary_cross_entropy_with_logits, batches, steps=40)
    assert ("constant_or_duplicate_input" in found) == (factor == 0)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_huber_loss_that_is_maximised_is_found(sign):
    inputs = torch.randn(2000, 8)
    targets = inputs[:, :1] - inputs[:, 1:2]
    model = layers(8, 32, 1)

    def loss(output, target):
        return sign * F.smooth_l1_loss(output, target)

    found = alarms(model, adam(model), loss, random_batches(inputs, targets), steps=60)
    assert ("loss_task_mismatch" in found) == (sign < 0)


@pytest.mark.parametrize(("sign", "found"), [(1, True), (-1, False)])
def test_an_optimizer_that_maximises_an_error_is_found(sign, found):
    inputs = torch.randn(2000, 8)
    targets = inputs[:, :1] - inputs[:, 1:2]
    model = layers(8, 32, 1)
    ascent = torch.optim.Adam(model.parameters(), 1e-3, maximize=True)

    def loss(output, target):
        return sign * F.mse_loss(output, target)

    rules = alarms(model, ascent, loss, random_batches(inputs, targets), steps=60)
    assert ("loss_task_mismatch" in rules) is found


@pytest.mark.parametrize(("std", "found"), [(0.02, True), (5 / 3 / 32**0.5, False)])
def test_tanh_layers_that_let_nothing_through_are_found_at_the_start(std, found):
    model = layers(64, *[32] * 10, 10, activation=nn.Tanh)
    for layer in linears(model)[:-1]:
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    rules = alarms(model, adam(model, 1e-3), F.cross_entropy, random_batches(*digits()), steps=40)
    assert ("init_activation_mismatch" in rules) == found


@pytest.mark.parametrize("only_head", [True, False])
def test_a_front_part_as_kaiming_left_it_is_no_frozen_backbone(only_head):
    model = layers(64, 40, 40, 40, 10)
    for layer in linears(model):
        nn.init.kaiming_normal_(layer.weight)
    trained = linears(model)[-1] if only_head else model
    found = alarms(model, adam(trained), F.cross_entropy, random_batches(*digits()))
    assert ("parameter_not_updated" in found) == only_head


@pytest.mark.parametrize("decay", [1.0, 1e-5])
def test_a_decay_that_keeps_a_falling_loss_above_that_of_a_constant_is_found(decay):
    inputs = torch.randn(2000, 16)
    rare = ((inputs[:, :4] ** 2).sum(1) > 8).float()[:, None]
    model = with_norm()
    optimizer = Adam(model.parameters(), 1e-3, weight_decay=decay)
    loss = F.binary_cross_entropy_with_logits
    rules = alarms(model, optimizer, loss, random_batches(inputs, rare), steps=150)
    assert ("over_regularised" in rules) == (decay == 1.0)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_cross_entropy_that_is_maximised_from_large_logits_on_is_found(sign):
    model = layers(64, *[64] * 5, 10, activation=nn.SELU)
    for layer in linears(model):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")

    def loss(output, target):
        return sign * F.cross_entropy(output, target)

    found = alarms(model, adam(model, 1e-2), loss, random_batches(*digits()), steps=30)
    assert ("loss_task_mismatch" in found) == (sign < 0)


@pytest.mark.parametrize("factor", [50.0, 1.0])
def test_a_layer_that_is_too_large_between_normalisation_layers_is_found(factor):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x):
            return x + self.down(F.gelu(self.up(self.norm(x))))

    model = nn.Sequential(Block(), Block(), Block(), nn.LayerNorm(64), nn.Linear(64, 10))
    with torch.no_grad():
        model[0].up.weight *= factor
    found = alarms(model, adam(model), F.cross_entropy, random_batches(*digits()), steps=30)
    assert ("init_scale_too_large" in found) == (factor > 1)
