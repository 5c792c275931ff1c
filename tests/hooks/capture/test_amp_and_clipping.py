"""Gradients are reported unscaled, a skipped step is no finding, and clipping hides no norm."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad, clip_grad_norm_

from trainvitals.capture import Capture, calls
from trainvitals.diagnosis.examine import Engine
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rules.non_finite_value import NonFiniteValue
from trainvitals.wire import Stat, Stream

OVERFLOW_AT = 3
STEPS = 6
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batch(at):
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(at))


def norm64(model):
    return float(torch.cat([p.grad.double().flatten() for p in model.parameters()]).norm())


def captured(model, optimizer=None, **options):
    history = History()
    return Capture(model, optimizer, emit=history.add, **options), history


class Amp:
    """A loop with GradScaler; the gradients of step 3 overflow."""

    def __init__(self, make, *, watch=True, unscale=False, clip=None, optimizer_given=True):
        self.model = network()
        self.optimizer = make(self.model.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        if watch:
            given = self.optimizer if optimizer_given else None
            self.capture, self.history = captured(self.model, given, every=1)
        self.norms, self.scales, self.weights = [], [], []
        for at in range(STEPS):
            loss = self.model(batch(at)).square().mean()
            if watch:
                self.capture.loss(loss)
            self.optimizer.zero_grad()
            scale = scaler.get_scale() if at else 1024.0
            scaler.scale(loss).backward()
            if at == OVERFLOW_AT:
                self.model[0].weight.grad[0, 0] = float("inf")
            self.norms.append(norm64(self.model) / scale)
            self.scales.append(scale)
            if unscale:
                scaler.unscale_(self.optimizer)
            if clip is not None:
                clip_grad_norm_(self.model.parameters(), clip)
            scaler.step(self.optimizer)
            scaler.update()
            self.weights.append([p.detach().clone() for p in self.model.parameters()])


@pytest.mark.parametrize("unscale", [False, True], ids=["unscaled in step", "unscaled before"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_are_unscaled_and_a_skipped_step_is_one_without_gradients(name, unscale):
    amp = Amp(OPTIMIZERS[name], unscale=unscale)
    history = amp.history
    assert amp.capture.step == STEPS - 1
    assert history.scalar("skipped_step").values.tolist() == [0, 0, 0, 1, 0, 0]
    kept = [at for at in range(STEPS) if at != OVERFLOW_AT]
    norm = history.scalar("gradient_norm").finite()
    assert norm.steps.tolist() == kept
    np.testing.assert_allclose(norm.values, [amp.norms[at] for at in kept], rtol=1e-5)
    whole = np.sqrt(np.square(history.values(Stream.GRADIENT, Stat.L2)[kept]).sum(1))
    np.testing.assert_allclose(whole, [amp.norms[at] for at in kept], rtol=1e-5)
    assert not np.nan_to_num(history.scalar("nonfinite_gradients").values).any()
    assert np.isnan(history.values(Stream.GRADIENT, Stat.NONFINITE)[OVERFLOW_AT]).all()
    assert np.isnan(history.values(Stream.UPDATE, Stat.RMS)[OVERFLOW_AT]).all()
    assert len(history.scalar("loss")) == STEPS


def test_the_scale_of_a_plain_optimizer_is_recorded():
    amp = Amp(OPTIMIZERS["sgd"])
    assert amp.history.scalar("loss_scale").values.tolist() == amp.scales
    assert amp.scales[-1] == amp.scales[0] / 2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_amp_trains_bit_identically_with_a_monitor(name):
    watched, plain = (Amp(OPTIMIZERS[name], watch=watch, clip=0.1).weights for watch in (1, 0))
    for a, b in zip(watched, plain, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_an_optimizer_that_only_skips_is_found_and_its_steps_count():
    model = network()
    capture, history = captured(model)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    scaler = torch.amp.GradScaler("cpu")
    for at in range(3):
        optimizer.zero_grad()
        scaler.scale(model(batch(at)).mean() * float("inf")).backward()
        scaler.step(optimizer)
        scaler.update()
    assert capture.step == 2
    assert history.scalar("skipped_step").values.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_overflow_that_is_skipped_is_no_finding(name):
    findings = Engine().examine(Amp(OPTIMIZERS[name]).history)
    assert NonFiniteValue.code not in {f.code for f in findings}


def test_a_step_that_one_of_two_optimizers_skips_is_a_skipped_one():
    g, d = network(), network()
    optimizers = [OPTIMIZERS["sgd"](m.parameters()) for m in (g, d)]
    capture, history = captured({"g": g, "d": d}, optimizers)
    scaler = torch.amp.GradScaler("cpu")
    for factor in (1.0, float("inf")):
        for model, optimizer in ((d, optimizers[1]), (g, optimizers[0])):
            optimizer.zero_grad()
            loss = model(batch(0)).square().mean() * (factor if model is d else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
        scaler.update()
    assert capture.step == 1
    assert history.scalar("skipped_step").values.tolist() == [0, 1]
    assert np.isfinite(history.scalar("gradient_norm").values).all()


def test_compiled_clipping_is_not_observed_and_has_the_graphs_it_had():
    def explained():
        torch.compiler.reset()
        found = torch._dynamo.explain(lambda: clip_grad_norm_(list(model.parameters()), 0.1))()
        return found.graph_count, found.graph_break_count

    model = network()
    model(batch(0)).mean().backward()
    without = explained()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    _, history = captured(model, optimizer)
    assert explained() == without
    optimizer.step()
    assert not len(before(history))


def test_a_disabled_scaler_is_none():
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    capture, history = captured(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    scaler.scale(model(batch(0)).mean()).backward()
    scaler.step(optimizer)
    assert capture.step == 0
    assert "skipped_step" not in history.scalar_names()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_norm_before_clipping_is_unscaled_too(name):
    amp = Amp(OPTIMIZERS[name], unscale=True, clip=0.1)
    found = amp.history.scalar("gradient_norm_before_clipping").finite()
    kept = [at for at in range(STEPS) if at != OVERFLOW_AT]
    assert found.steps.tolist() == kept
    np.testing.assert_allclose(found.values, [amp.norms[at] for at in kept], rtol=1e-5)


def test_the_norm_before_clipping_of_scaled_gradients_is_divided_by_the_scale():
    amp = Amp(OPTIMIZERS["fused AdamW"], clip=1e6)
    found = amp.history.scalar("gradient_norm_before_clipping").finite()
    np.testing.assert_allclose(found.values, np.delete(amp.norms, OVERFLOW_AT), rtol=1e-5)


def clipped(clip, *, steps=3):
    """Return the history of a loop whose gradients `clip` changes, and the norms before it."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    _, history = captured(model, optimizer)
    norms = []
    for at in range(steps):
        optimizer.zero_grad()
        model(batch(at)).square().mean().backward()
        norms.append(norm64(model))
        clip(model)
        optimizer.step()
    return history, norms


def before(history):
    return history.scalar("gradient_norm_before_clipping").finite()


def test_both_norms_are_recorded_at_each_step():
    history, norms = clipped(lambda model: clip_grad_norm_(model.parameters(), 0.01))
    np.testing.assert_allclose(before(history).values, norms, rtol=1e-5)
    np.testing.assert_allclose(history.scalar("gradient_norm").values, 0.01, rtol=1e-3)


def test_a_model_that_is_clipped_in_parts_has_one_norm():
    def in_parts(model):
        for part in (model[0], model[2]):
            clip_grad_norm_(part.parameters(), 0.01)

    history, norms = clipped(in_parts)
    np.testing.assert_allclose(before(history).values, norms, rtol=1e-5)


@pytest.mark.parametrize(
    "clip",
    [
        lambda model: clip_grad_norm_(model[0].parameters(), 0.01),
        lambda model: clip_grad_norm_(model.parameters(), 0.01, norm_type=1.0),
        lambda model: clip_grad_norm_(network().parameters(), 0.01),
        lambda model: None,
    ],
    ids=["a part", "another norm", "another model", "not at all"],
)
def test_a_norm_that_is_not_that_of_all_gradients_is_absent(clip):
    history, _ = clipped(clip)
    assert not len(before(history))


def test_a_part_that_is_clipped_instead_of_all_is_noticed():
    calls = iter(range(100))

    def all_then_a_part(model):
        clip_grad_norm_((model if next(calls) < 2 else model[2]).parameters(), 0.01)

    history, norms = clipped(all_then_a_part, steps=4)
    np.testing.assert_allclose(before(history).values, norms[:2], rtol=1e-5)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_clipped_batch_that_the_program_then_discards_counts_for_no_later_step(set_to_none):
    def twice(model):
        clip_grad_norm_(model.parameters(), 0.01)
        model.zero_grad(set_to_none=set_to_none)
        model(batch(99)).square().mean().backward()
        norms.append(norm64(model))
        clip_grad_norm_(model.parameters(), 0.01)

    norms = []
    history, _ = clipped(twice)
    np.testing.assert_allclose(before(history).values, norms, rtol=1e-5)


def test_two_optimizers_have_one_norm_of_all_gradients():
    g, d = network(), network()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (g, d)]
    _, history = captured({"g": g, "d": d}, optimizers)
    for optimizer, model in zip(reversed(optimizers), (d, g), strict=True):
        model(batch(0)).square().mean().backward()
        clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
    model = network()
    model(batch(0)).square().mean().backward()
    np.testing.assert_allclose(before(history).values, [np.sqrt(2) * norm64(model)], rtol=1e-5)


def test_a_forgotten_monitor_does_not_keep_the_model():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Capture(model, optimizer, loss=nn.MSELoss(), emit=lambda _: None)
    kept = weakref.ref(model)
    del model, optimizer
    gc.collect()
    assert kept() is None


@pytest.fixture
def _unobserved(monkeypatch):
    """No capture of another test is attached."""
    monkeypatch.setattr(calls, "_observers", [])
    monkeypatch.setattr(calls, "_restores", [])


@pytest.mark.usefixtures("_unobserved")
def test_torchs_functions_are_their_own_again_after_the_last_monitor():
    def functions():
        return torch.amp.GradScaler.step, clip_grad._get_total_norm, torch.nn.utils.get_total_norm

    originals = functions()
    captures = [captured(network())[0] for _ in range(2)]
    assert all(a is not b for a, b in zip(functions(), originals, strict=True))
    captures[0].detach()
    captures[0].detach()
    assert all(a is not b for a, b in zip(functions(), originals, strict=True))
    captures[1].detach()
    assert functions() == originals
    assert not calls._observers


@pytest.mark.usefixtures("_unobserved")
def test_a_replacement_by_another_library_is_kept(monkeypatch):
    capture, _ = captured(network())
    ours = clip_grad._get_total_norm
    theirs = lambda *a, **k: ours(*a, **k)  # noqa: E731
    monkeypatch.setattr(clip_grad, "_get_total_norm", theirs)
    capture.detach()
    assert clip_grad._get_total_norm is theirs
    assert clip_grad_norm_(network().parameters(), 1.0) == 0


def test_an_error_of_the_scaler_reaches_the_program_and_counts_no_step():
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    capture, _ = captured(model, optimizer)
    scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(AssertionError, match="_scale"):
        scaler.step(optimizer)
    assert capture.step == -1
