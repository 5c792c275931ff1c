"""A sick model trained again with the finding's own fix, executed literally, is healthy."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from helpers.fixing import Sick, applied, diagnosis  # noqa: E402
from helpers.watching import own_home  # noqa: E402, F401
from trainvitals.diagnosis.example import Example  # noqa: E402
from trainvitals.diagnosis.fixes import (  # noqa: E402
    Moment,
    at,
    clipping,
    higher_rate,
    lower_rate,
    parts,
    without_activation,
)
from trainvitals.diagnosis.rules.no_learning import NoLearning  # noqa: E402
from trainvitals.diagnosis.rules.parameter_jump import ParameterJump  # noqa: E402
from trainvitals.wire import Place, Stat, Stream  # noqa: E402


def mlp(*, hidden: int = 2, activation=nn.ReLU, outputs: int = 4) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(12, 32), activation()]
    for _ in range(hidden - 1):
        layers += [nn.Linear(32, 32), activation()]
    return nn.Sequential(*layers, nn.Linear(32, outputs))


def clusters(model: nn.Module, **changed) -> Sick:
    """Twelve Gaussian clusters of 12 features, three for each of four classes."""
    cluster = torch.randint(12, (600,))
    x = 1.2 * torch.randn(12, 12)[cluster] + torch.randn(600, 12)
    return Sick(model, (x - x.mean(0)) / x.std(0), cluster % 4, **changed)


def numbers(model: nn.Module, *, scale: float = 1.0, offset: float = 0.0) -> Sick:
    """A smooth function of 12 features."""
    x = torch.randn(600, 12)
    y = (x[:, :4].sum(1) + x[:, 4] * x[:, 5])[:, None]
    return Sick(model, x, offset + scale * y / y.std(), nn.MSELoss())


def weights(model: nn.Sequential, change) -> nn.Sequential:
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                change(layer)
    return model


def constant_weights() -> Sick:
    return clusters(weights(mlp(), lambda m: (m.weight.fill_(0.05), m.bias.zero_())))


def weights_times_thirty() -> Sick:
    return clusters(weights(mlp(), lambda m: m.weight.mul_(30)))


def tiny_weights() -> Sick:
    return clusters(weights(mlp(hidden=5), lambda m: (m.weight.mul_(1e-3), m.bias.zero_())))


def negative_biases() -> Sick:
    model = mlp()
    for layer in (model[0], model[2]):
        nn.init.constant_(layer.bias, -10.0)
    return clusters(model)


def softmax() -> Sick:
    return clusters(nn.Sequential(*mlp(), nn.Softmax(1)))


def sigmoid_output() -> Sick:
    return clusters(nn.Sequential(*mlp(), nn.Sigmoid()))


def nll_of_logits() -> Sick:
    return clusters(mlp(), loss=nn.NLLLoss())


def wrong_sign() -> Sick:
    return clusters(mlp(), loss=lambda p, y: -nn.functional.cross_entropy(p, y))


def column_and_row() -> Sick:
    sick = numbers(mlp(outputs=1))
    sick.y = sick.y[:, 0]
    return sick


def no_zero_grad() -> Sick:
    return clusters(mlp(), zero_grad=False)


def head_left_out() -> Sick:
    return clusters(mlp(), optimizer=lambda model: torch.optim.Adam(model[:-1].parameters(), 3e-3))


def frozen_head() -> Sick:
    model = mlp()
    model[-1].requires_grad_(False)
    return clusters(model)


def high_rate() -> Sick:
    return clusters(mlp(), optimizer=lambda model: torch.optim.SGD(model.parameters(), 100.0))


def low_rate() -> Sick:
    return clusters(mlp(), optimizer=lambda model: torch.optim.SGD(model.parameters(), 1e-6))


def strong_decay() -> Sick:
    return clusters(
        mlp(), optimizer=lambda model: torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=100)
    )


def shifted_inputs() -> Sick:
    sick = clusters(mlp())
    sick.x = sick.x + 100
    return sick


def infinite_inputs() -> Sick:
    sick = clusters(mlp())
    sick.x[::20, 0] = float("inf")
    return sick


def large_targets() -> Sick:
    return numbers(mlp(outputs=1), scale=1000.0, offset=5000.0)


def one_class_in_a_batch() -> Sick:
    sick = clusters(mlp())

    def rows(step: int):
        of_class = (sick.y == step // 10 % 4).nonzero()[:, 0]
        return of_class[torch.randint(len(of_class), (32,))]

    sick.rows = rows
    return sick


def norms_in_eval_mode() -> Sick:
    model = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    return clusters(model, training=False)


def no_nonlinearity() -> Sick:
    return clusters(mlp(activation=nn.Identity))


def loss_times_zero() -> Sick:
    return clusters(mlp(), loss=lambda output, y: 0.0 * nn.functional.cross_entropy(output, y))


def detached_loss() -> Sick:
    model = mlp()

    def loss(output, y):
        penalty = sum((w**2).sum() for w in model.parameters())
        return nn.functional.cross_entropy(output.detach(), y) + 1e-6 * penalty

    return clusters(model, loss=loss)


def relative_error_of_zeros() -> Sick:
    sick = numbers(mlp(outputs=1))
    sick.y = sick.y.where(sick.y.abs() > 0.1, 0.0)
    sick.loss = lambda output, y: ((output - y).abs() / y.abs()).mean()
    return sick


def target_among_the_features() -> Sick:
    sick = numbers(mlp(outputs=1))
    sick.x[:, 3:4] = 2.0 * sick.y
    return sick


def before_each_step(sick: Sick, change) -> Sick:
    """Call `change(step)` without gradients before each step."""

    def rows(step: int):
        with torch.no_grad():
            change(step)
        return torch.randint(600, (32,))

    sick.rows = rows
    return sick


def corrupted_weight() -> Sick:
    sick = clusters(mlp(), steps=250)

    def corrupt(step: int) -> None:
        if step == 120:
            sick.model[2].weight.view(-1)[::7].mul_(1e4)

    return before_each_step(sick, corrupt)


def weights_rounded_to_bfloat16() -> Sick:
    model = mlp()
    sick = clusters(
        model, optimizer=lambda model: torch.optim.Adam(model.parameters(), 1e-4), steps=300
    )

    def rounded(_: int) -> None:
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())

    return before_each_step(sick, rounded)


SICK = {
    "symmetric_init": constant_weights,
    "init_scale_too_large": weights_times_thirty,
    "init_scale_too_small": tiny_weights,
    "dead_relu": negative_biases,
    "softmax_before_cross_entropy": softmax,
    "output_range_mismatch": sigmoid_output,
    "loss_task_mismatch": nll_of_logits,
    "loss_task_mismatch by its sign": wrong_sign,
    "loss_task_mismatch by broadcasting": column_and_row,
    "missing_zero_grad": no_zero_grad,
    "parameter_not_updated": head_left_out,
    "no_gradient": frozen_head,
    "learning_rate_too_high": high_rate,
    "learning_rate_too_low": low_rate,
    "over_regularised": strong_decay,
    "unnormalised_input": shifted_inputs,
    "non_finite_input": infinite_inputs,
    "target_not_scaled": large_targets,
    "constant_or_duplicate_input": one_class_in_a_batch,
    "wrong_train_eval_mode": norms_in_eval_mode,
    "missing_nonlinearity": no_nonlinearity,
    "no_supervision": loss_times_zero,
    "loss_term_inactive": detached_loss,
    "non_finite_value": relative_error_of_zeros,
    "trivial_target": target_among_the_features,
    "parameter_jump": corrupted_weight,
    "absorbed_updates": weights_rounded_to_bfloat16,
}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", SICK)
def test_the_fix_of_the_headline_heals_the_model(name):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sick = diagnosis(SICK[name]())
    assert sick.headline is not None
    assert sick.headline.rule == name.split()[0]
    torch.manual_seed(0)
    healed = diagnosis(SICK[name](), sick.headline.fix)
    assert healed.headline is None, healed.headline


@pytest.mark.parametrize(
    ("ratio", "fix"), [(1.5e-4, higher_rate(1.5e-4)), (5e-3, ""), (0.0, ""), (float("nan"), "")]
)
def test_a_loss_that_stays_has_a_fix_only_if_the_updates_are_small(ratio, fix):
    losses = 2.303 + np.random.default_rng(0).normal(0, 0.02, 150)
    place = Place("0.weight", "weight", (8, 8), 0, "0")
    history = Example(150).scalars(loss=losses)
    history.stream(Stream.UPDATE, [place], {"0.weight": {Stat.RATIO: ratio}})
    [finding] = NoLearning().check(history.history)
    assert finding.fix == fix


@pytest.mark.parametrize("value", [1e6, float("nan"), float("inf")])
def test_the_fix_of_a_parameter_jump_restores_that_parameter_and_keeps_usual_updates(value):
    model, before, each_step = mlp(), *parts(ParameterJump.fix).values()
    space = {"torch": torch, "model": model}
    exec(before, space)
    with torch.no_grad():
        model[0].weight += 0.01
        usual, good = model[0].weight.clone(), model[2].weight.clone()
        model[2].weight[0, 0] = value
    exec(each_step, space)
    assert torch.equal(model[2].weight, good)
    assert torch.equal(model[0].weight, usual)


def test_a_hidden_activation_is_never_removed():
    model = mlp()
    with pytest.raises(AssertionError, match="remove the activation in forward"):
        applied(without_activation("ReLU"), model=model)
    assert isinstance(model[3], nn.ReLU)


def test_a_fix_names_the_place_of_each_part():
    fix = f"{at(Moment.STEP, 'a = 1')}\n{clipping(0.5)}"
    assert list(parts(fix)) == [Moment.STEP, Moment.CLIP]
    assert parts(fix)[Moment.STEP] == "a = 1\n"


@pytest.mark.parametrize("fix", ["a = 1", f"{clipping(1.0)}\n{clipping(2.0)}"])
def test_a_fix_without_a_place_or_with_a_place_twice_is_refused(fix):
    with pytest.raises(ValueError, match=r"place twice|does not say where"):
        parts(fix)


@pytest.mark.parametrize(
    ("fix", "factor"),
    [
        (higher_rate(2e-6), "*= 1000\n"),
        (higher_rate(0.0), "*= 10\n"),
        (lower_rate(0.54), "/= 20\n"),
        (lower_rate(1e-3), "/= 2\n"),
        (lower_rate(float("inf")), "/= 1000\n"),
    ],
)
def test_the_learning_rate_changes_by_the_update_ratio(fix, factor):
    assert parts(fix)[Moment.BEFORE_TRAINING].endswith(factor)
