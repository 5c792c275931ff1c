"""Copies, pickles, scripted and traced forms of a watched model are those of a plain one."""

import contextlib
import copy
import io

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from helpers.warm_python import run_warm
from trainvitals.capture import Capture


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.act(self.a(x)))


X = torch.ones(6, 4)


def watched_model(**options):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture = Capture(model, optimizer, emit=lambda record: None, **options)
    return model, capture


def stored(model) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


def test_a_saved_model_loads_with_weights_only_when_its_classes_are_allowed():
    model, _ = watched_model()
    model(X)
    with torch.serialization.safe_globals([Net, nn.Linear, nn.ReLU]):
        loaded = torch.load(stored(model), weights_only=True)
    assert torch.equal(loaded(X), model(X))
    assert not any(m._forward_hooks for m in loaded.modules())


def test_a_saved_model_names_nothing_of_ours_and_no_function():
    model, _ = watched_model()
    file = io.BytesIO()
    torch.save(model, file, _use_new_zipfile_serialization=False)
    assert b"trainvitals" not in file.getvalue()
    assert b"getattr" not in file.getvalue()


def test_a_saved_model_and_loss_load_where_trainvitals_is_not_installed(tmp_path):
    model, criterion = nn.Sequential(nn.Linear(4, 2), nn.Tanh()), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Capture(model, optimizer, emit=lambda record: None, loss=criterion)
    torch.save((model, criterion), tmp_path / "both.pt")
    script = (
        "import sys; sys.modules['trainvitals'] = None\n"
        "import torch\n"
        f"model, loss = torch.load({str(tmp_path / 'both.pt')!r}, weights_only=False)\n"
        "loss(model(torch.ones(6, 4)), torch.ones(6, 2)).backward()"
    )
    done = run_warm(script)
    assert done.returncode == 0, done.stderr


def test_a_copy_has_the_users_hooks_and_none_of_ours():
    model, _ = watched_model()
    model.a.register_forward_hook(print)
    twin = copy.deepcopy(model)
    assert list(twin.a._forward_hooks.values()) == [print]
    assert not twin.b._forward_hooks


def test_a_watched_model_is_scripted_and_goes_on_being_watched():
    model, capture = watched_model()
    scripted = torch.jit.script(model)
    torch.jit.save(scripted, io.BytesIO())
    assert torch.equal(scripted(X), model(X))
    assert set(capture._outputs.names) == {"a", "b", "act"}


@pytest.mark.parametrize("armed", [True, False])
def test_a_watched_model_is_traced_and_passes_torchs_check(armed):
    model, capture = watched_model()
    capture._outputs.begin(0, armed=armed)
    traced = torch.jit.trace(model, X, check_trace=True)
    assert torch.equal(traced(X), model(X))
    assert "aten::var" not in str(traced.inlined_graph)


def test_a_scripted_model_is_watched():
    torch.manual_seed(0)
    model = torch.jit.script(Net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture = Capture(model, optimizer, emit=lambda record: None)
    model(X).sum().backward()
    optimizer.step()
    assert capture.step == 0
    assert "a.weight" in capture.watched


def test_a_watched_model_is_exported():
    model, _ = watched_model()
    exported = torch.export.export(model, (X,))
    assert torch.equal(exported.module()(X), model(X))


def test_the_users_hooks_work_before_during_and_after_watching():
    calls = []
    torch.manual_seed(0)
    model = Net()
    before = model.a.register_forward_hook(lambda *_: calls.append("before"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture = Capture(model, optimizer, emit=lambda record: None)
    during = model.b.register_forward_hook(lambda *_: calls.append("during"))
    model(X)
    capture.detach()
    model(X)
    assert calls == ["before", "during"] * 2
    before.remove()
    during.remove()
    model(X)
    assert calls == ["before", "during"] * 2
    assert not any(m._forward_hooks for m in model.modules())


def test_two_monitors_of_one_model_do_not_disturb_each_other():
    model, first = watched_model()
    second = Capture(model, emit=lambda record: None)
    first.detach()
    model(X)
    assert set(second._outputs.names) == {"a", "b", "act"}
    second.detach()
    assert not any(m._forward_hooks for m in model.modules())


def test_compiling_breaks_no_graph_and_gives_no_warning(recwarn):
    torch._dynamo.reset()
    model, capture = watched_model()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for armed in (True, False, True, False):
        capture._outputs.begin(0, armed=armed)
        compiled(X).sum().backward()
    assert counter.frame_count == 1
    assert not [w for w in recwarn if "hook" in str(w.message)]


def test_replicas_that_share_the_hooks_are_not_watched():
    model, capture = watched_model()
    replica = model._replicate_for_data_parallel()
    with contextlib.suppress(RuntimeError):
        replica(X)
    copy.copy(model.a)(X)
    assert not capture._guard.off
    assert not capture._guard._errors
