"""A watched run names the initialiser of its parameters, as they were before the first update."""

import threading

import torch
from torch import nn

from trainvitals.capture import Capture
from trainvitals.capture.initial import PARAMETERS_MAX
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial_state import initial_state
from trainvitals.wire import EventKind


def watched(model, steps=3, **more):
    """Train some steps with a large learning rate, and return the capture and the history."""
    history = History()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    capture = Capture(model, optimizer, emit=history.add, **{"every": 1} | more)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(16, 40)).square().mean()
        capture.loss(loss)
        loss.backward()
        optimizer.step()
    if capture._initial._thread is not None:
        capture._initial._thread.join()  # on a busy machine it takes longer than `detach` waits
    capture.detach()
    return capture, history


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    nn.init.kaiming_normal_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    nn.init.orthogonal_(model[2].weight)
    return model.append(nn.Linear(64, 3))


def test_each_parameter_has_the_name_of_its_initialiser():
    _, history = watched(network())
    names = {k: v.name for k, v in initial_state(history).initialisers.items()}
    assert names["0.weight"] == "he_normal"
    assert names["0.bias"] == "zeros"
    assert names["2.weight"] == "orthogonal"
    assert names["4.weight"] == "torch_default"
    assert set(names) == {n for n, _ in network().named_parameters()}


def test_a_tall_orthogonal_matrix_is_recognised_in_a_sample():
    model = nn.Sequential(nn.Linear(40, 640), nn.ReLU(), nn.Linear(640, 3))
    nn.init.orthogonal_(model[0].weight)
    _, history = watched(model)
    assert initial_state(history).initialisers["0.weight"].name == "orthogonal"


def test_there_is_one_event_and_no_thread_at_the_end():
    _, history = watched(network(), steps=20)
    assert [e.kind for e in history.events].count(EventKind.INITIALISERS) == 1
    assert not any("initialisers" in t.name for t in threading.enumerate())


def test_vital_signals_alone_identify_nothing():
    _, history = watched(network(), every=None, overhead=0.0)
    assert initial_state(history).initialisers == {}


def test_of_a_large_model_the_matrices_come_first():
    model = nn.Sequential(*[nn.Linear(40, 40) for _ in range(PARAMETERS_MAX // 2 + 100)])
    _, history = watched(model, steps=1)
    found = initial_state(history).initialisers
    assert 0 < len(found) <= PARAMETERS_MAX
    matrices = [name for name in found if name.endswith("weight")]
    assert len(matrices) >= len(found) - len(matrices)


def test_a_parameter_that_is_not_finite_is_unknown_and_harms_nothing():
    model = network()
    with torch.no_grad():
        model[4].weight[0, 0] = torch.nan
    capture, history = watched(model, steps=1)
    assert initial_state(history).initialisers["4.weight"].name == "unknown"
    assert not capture._guard.off


def test_a_run_that_began_late_has_no_initial_state():
    history = History()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture = Capture(model, optimizer, emit=history.add, every=10)
    capture.step = 8  # the first full step is step 10
    capture._full = False
    for _ in range(3):
        loss = model(torch.randn(16, 40)).square().mean()
        loss.backward()
        optimizer.step()
    capture.detach()
    state = initial_state(history)
    assert state.propagation == ()
    assert state.initial_loss is None
