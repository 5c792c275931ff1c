"""A monitor watches, diagnoses and never hurts the training."""

import copy
import logging
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

import trainvitals
from helpers.watching import network, own_home, train, watched  # noqa: F401 - own_home is a fixture


def test_a_healthy_run_has_no_headline_and_names_what_is_watched():
    monitor = watched()
    diagnosis = monitor.diagnosis()
    assert diagnosis.headline is None
    assert diagnosis.step == 29
    assert {"0.weight", "0.bias", "2.weight", "2.bias"} <= set(diagnosis.watched)
    assert diagnosis.overhead > 0
    monitor.close()


def test_the_diagnosis_is_the_same_after_close():
    monitor = watched(lr=1e4)
    before = monitor.diagnosis()
    monitor.close()
    after = monitor.diagnosis()
    assert before.headline is not None
    assert (after.headline.code, after.step) == (before.headline.code, before.step)


def test_the_loss_comes_back_as_the_very_same_object():
    monitor = watched(steps=1)
    value = torch.tensor(1.0, requires_grad=True)
    assert monitor.loss(value) is value
    monitor.close()
    assert monitor.loss(value) is value
    assert monitor.loss("no number") == "no number"


def test_training_is_bit_identical_with_and_without_a_monitor():
    def weights(*, watch):
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        monitor = trainvitals.watch(model, optimizer, collector="off") if watch else None
        train(model, optimizer, monitor)
        state = [p.detach().clone() for p in model.parameters()]
        return state, torch.get_rng_state(), np.random.get_state()[1].copy()

    (plain, rng, np_rng), (seen, rng_seen, np_rng_seen) = weights(watch=False), weights(watch=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, seen, strict=True))
    assert torch.equal(rng, rng_seen)
    assert (np_rng == np_rng_seen).all()


def test_on_finding_is_called_in_the_training_thread_and_may_stop_the_training():
    seen = []

    def stop(finding):
        seen.append((finding.code, threading.current_thread()))
        raise trainvitals.StopTraining

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e4)

    def slow_training():
        with trainvitals.watch(model, optimizer, collector="off", on_finding=stop) as monitor:
            for _ in range(200):
                train(model, optimizer, monitor, steps=1)
                time.sleep(0.02)

    with pytest.raises(trainvitals.StopTraining):
        slow_training()
    assert seen[0][1] is threading.main_thread()


def test_the_users_own_exception_passes_through_the_with_block():
    model = network()
    with (
        pytest.raises(KeyError),
        trainvitals.watch(model, torch.optim.SGD(model.parameters(), 0.1), collector="off"),
    ):
        raise KeyError("mine")


def warnings_in(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_model_that_is_none_is_one_warning_and_the_training_goes_on(caplog):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = trainvitals.watch("not a module", optimizer, collector="off")
    train(model, optimizer, monitor, steps=3)
    monitor.log(accuracy=0.5)
    monitor.close()
    [said] = warnings_in(caplog)
    assert "watch needs a torch.nn.Module" in said
    assert monitor.diagnosis().step == -1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"every": 0}, "every=0 is not used: it must be an integer of at least 1"),
        ({"every": -1}, "every=-1 is not used"),
        ({"every": "x"}, "every='x' is not used"),
        ({"every": True}, "every=True is not used"),
        ({"total_steps": 0}, "total_steps=0 is not used"),
        ({"total_steps": 2**70}, f"total_steps={2**70} is not used"),
        ({"overhead": -1}, "overhead from argument is not used"),
        ({"overhead": "much"}, "overhead from argument is not used"),
        ({"run": "org/model"}, "The id is org-model-"),
        ({"run": "exp/lr=1e-3"}, "The id is exp-lr=1e-3-"),
        ({"run": "a" * 300}, "1 to 200 bytes"),
        ({"run": "a\0b"}, "control characters"),
        ({"run": "a\udcffb"}, "The id is a-b"),
        ({"loss": nn.functional.cross_entropy}, "loss=cross_entropy is not a torch.nn.Module"),
        ({"activations": 5}, "activations=5 is not used"),
        ({"tags": 5}, "tags=5 is not used"),
        ({"on_finding": "print"}, "on_finding='print' is not used"),
        ({"project": "a\0b"}, "project from argument is not used"),
        ({"loss": nn.CrossEntropyLoss}, "is not a torch.nn.Module"),
        ({"loss": "mse"}, "loss=str is not a torch.nn.Module"),
    ],
)
def test_an_argument_it_cannot_use_is_one_warning_and_the_run_is_watched(arguments, said, caplog):
    monitor = watched(steps=10, **arguments)
    [warning] = [w for w in warnings_in(caplog) if not w.startswith("TV")]
    assert said in warning
    diagnosis = monitor.diagnosis()
    assert diagnosis.step == 9
    assert {"0.weight", "1"} <= set(diagnosis.watched)
    monitor.close()


class Unreadable:
    """Raises for every attribute and every text that is asked of it."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize(
    "name",
    [
        *("optimizer", "loss", "run", "project", "config", "tags", "collector", "total_steps"),
        *("overhead", "every", "activations", "on_finding"),
    ],
)
def test_an_argument_of_any_type_is_survived_and_the_run_is_watched(name):
    for odd in (Unreadable(), torch.ones(3), 2.5, b"x", [1], {"a": 1}):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        options = {"optimizer": optimizer, "collector": "off", name: odd}
        monitor = trainvitals.watch(model, **options)
        train(model, optimizer, monitor, steps=2)
        assert monitor.diagnosis().step == 1
        monitor.close()
        assert not any(m._forward_hooks for m in model.modules())
        assert not optimizer._optimizer_step_pre_hooks


def test_numbers_of_steps_may_be_whole_floats_and_numpy_integers(caplog):
    watched(steps=2, every=np.int64(2), total_steps=1e3).close()
    assert not [w for w in warnings_in(caplog) if not w.startswith("TV")]


def test_overhead_0_measures_no_step_in_full_unless_a_cadence_is_given():
    vital = watched(steps=20, overhead=0).diagnosis()
    assert vital.step == 19
    assert vital.watched == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert "overhead=0" in vital.not_watched["layers"]
    full = watched(steps=20, overhead=0, every=5).diagnosis()
    assert "1" in full.watched


def our_threads():
    return {t for t in threading.enumerate() if t.name.startswith("trainvitals")}


def test_when_attaching_fails_no_hook_and_no_thread_is_left(monkeypatch, caplog):
    def broken(**_):
        raise OSError("no host name")

    model, criterion = network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = our_threads()
    monkeypatch.setattr("trainvitals.monitor.run_start", broken)
    monitor = trainvitals.watch(model, optimizer, loss=criterion, collector="http://127.0.0.1:9")
    assert "no host name" in caplog.text
    assert not any(m._forward_hooks for m in [*model.modules(), criterion])
    assert not optimizer._optimizer_step_pre_hooks
    end = time.monotonic() + 5
    while our_threads() - before and time.monotonic() < end:
        time.sleep(0.05)
    assert our_threads() <= before
    train(model, optimizer, monitor, steps=2)
    assert monitor.diagnosis().step == -1


def test_when_an_optimizer_takes_no_hooks_the_modules_hooks_are_removed(caplog):
    class Refusing(torch.optim.SGD):
        def register_step_post_hook(self, hook):
            raise RuntimeError("no hooks here")

    model = network()
    optimizer = Refusing(model.parameters(), lr=0.1)
    trainvitals.watch(model, optimizer, collector="off").close()
    assert "no hooks here" in caplog.text
    assert not any(m._forward_hooks for m in model.modules())
    assert not optimizer._optimizer_step_pre_hooks


def test_watching_needs_no_home_directory_and_no_password_entry(monkeypatch):
    def unknown(_user):
        raise KeyError

    monkeypatch.delenv("TRAINVITALS_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monitor = watched(steps=3)
    assert monitor.diagnosis().step == 2
    monitor.close()


def test_a_collector_url_that_is_nonsense_is_one_warning_and_the_run_is_diagnosed_here(caplog):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = trainvitals.watch(model, optimizer, collector="not a url")
    train(model, optimizer, monitor, steps=3)
    assert monitor.diagnosis().step == 2
    assert monitor.url is None
    monitor.close()
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


def test_a_users_exception_without_a_text_passes_through_the_with_block():
    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        pytest.raises(Unprintable),
        trainvitals.watch(model, optimizer, collector="off"),
    ):
        raise Unprintable


def test_the_address_of_a_run_is_quoted():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = trainvitals.watch(model, optimizer, run="lr 1&2", collector="http://127.0.0.1:9")
    assert monitor.url == "http://127.0.0.1:9/run?run=lr%201%262"
    monitor.close()


def test_a_hand_written_loop_is_diagnosed_from_its_losses():
    model = network()
    monitor = trainvitals.watch(model, collector="off")
    for at in range(5):
        monitor.loss(float(at))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= 0.9
        assert monitor.diagnosis().step in (at, -1)
    diagnosis = monitor.diagnosis()
    assert diagnosis.step == 4
    assert "no torch optimizer" in diagnosis.not_watched["gradients and updates"]
    monitor.close()


def test_an_optimizer_of_another_model_is_one_warning_and_a_finding_tells_too(caplog):
    model, other = network(), network()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    monitor = trainvitals.watch(model, optimizer, collector="off")
    train(model, optimizer, monitor, steps=10)
    assert "contains none of the model's" in caplog.text
    assert "TV603" in {f.code for f in monitor.diagnosis().findings}
    assert "it trains another model" in monitor.diagnosis().not_watched["optimizer"]
    monitor.close()


def test_a_model_without_parameters_is_watched_for_its_loss(caplog):
    class Nothing(nn.Module):
        def forward(self, x):
            return x

    weight = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    monitor = trainvitals.watch(Nothing(), optimizer, collector="off")
    for _ in range(3):
        monitor.loss((weight - 1).square().sum()).backward()
        optimizer.step()
    assert monitor.diagnosis().step == 2
    assert "no parameters" in caplog.text
    monitor.close()


def test_without_an_optimizer_it_finds_the_one_that_steps():
    model = network()
    monitor = trainvitals.watch(model, collector="off")
    train(model, torch.optim.Adam(model.parameters()), monitor, steps=5)
    assert monitor.diagnosis().step == 4
    monitor.close()


def test_a_copy_of_the_model_is_not_watched_and_closing_leaves_no_hook():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = trainvitals.watch(model, optimizer, collector="off")
    twin = copy.deepcopy(model)
    train(twin, torch.optim.SGD(twin.parameters(), lr=0.1), steps=3)
    assert monitor.diagnosis().step == -1
    monitor.close()
    assert not any(m._forward_hooks for m in model.modules())
    assert not optimizer._optimizer_step_pre_hooks


def test_disabled_by_the_environment_it_does_nothing(monkeypatch):
    monkeypatch.setenv("TRAINVITALS_DISABLED", "1")
    monitor = watched(steps=3)
    assert monitor.diagnosis().step == -1
    monitor.close()


def test_thresholds_of_the_project_apply_to_the_run_and_are_recorded(tmp_path, caplog):
    (tmp_path / "trainvitals.toml").write_text(
        "[rules.learning_rate_too_high]\nno_such = 1\n[rules.dead_relu]\nunits_min = 64\n"
    )
    monitor = watched(steps=3)
    facts = monitor._diagnosis.history.facts if monitor.diagnosis() else {}
    monitor.close()
    assert facts["threshold/dead_relu/units_min"] == 64
    [said] = warnings_in(caplog)
    assert "learning_rate_too_high has no threshold 'no_such'" in said
