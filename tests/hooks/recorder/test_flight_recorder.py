"""`watch(record=)` writes the last steps when something goes wrong, and changes no training."""

import json
import os
import random
import threading
import time
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import trainvitals
from helpers.noisy_samples import loader_of, noisy_samples
from helpers.watching import network, own_home  # noqa: F401 - a fixture
from trainvitals.api.schema import Finding, Severity
from trainvitals.random_states import other_states
from trainvitals.recorder import Recorder, bundle
from trainvitals.recorder.ring import Ring, StepContext
from trainvitals.wire import Frame, Stream


def train(*, record, bad=None, poisoned_step=-1, epochs=1, **options):
    """Train with dropout; return the model, the monitor and the losses per sample."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    monitor = trainvitals.watch(model, optimizer, collector="off", record=record, **options)
    losses = []
    loader = loader_of(noisy_samples(bad=bad))
    for _ in range(epochs):
        for x, y in monitor.batches(loader):
            loss = nn.functional.cross_entropy(model(x), y, reduction="none")
            if len(losses) == poisoned_step:
                loss = loss * float("nan")
            losses.append(loss.detach().clone())
            optimizer.zero_grad()
            monitor.loss(loss).mean().backward()
            optimizer.step()
    monitor.close()
    return model, monitor, losses


def only(monitor):
    [path] = monitor.recordings
    return bundle.read(path)


def finding(severity=Severity.WARNING, *, code="TV504", where="", step=3):
    return Finding(
        rule="loss_spike", code=code, severity=severity, where=where, since_step=step, summary="."
    )


# What is written, and when.


def test_a_nan_in_a_sample_is_written_with_the_indices_that_the_batch_had(tmp_path):
    _, monitor, losses = train(record=tmp_path, bad=17)
    found = only(monitor)
    about = found.description
    assert (about.reason, about.version, about.run) == ("non_finite", 1, monitor.run)
    [batch] = found.contexts[about.step].batches
    assert 17 in batch
    assert torch.equal(found.contexts[about.step].losses[0].isnan(), losses[about.step].isnan())
    assert [int(i) for i in batch[found.contexts[about.step].losses[0].isnan().numpy()]] == [17]


def one_step(folder, losses, after=lambda losses: losses):
    """Record one step whose losses per sample the program changes by `after`; return the file."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = trainvitals.watch(model, optimizer, collector="off", record=folder)
    after(monitor.loss(losses(model(torch.ones(4, 8))))).sum().backward()
    optimizer.step()
    monitor._recorder.finding_opened(finding(step=0))
    monitor.close()
    return only(monitor)


def test_losses_that_are_changed_in_place_afterwards_are_left_out_with_the_reason(tmp_path):
    def halved(losses):
        return losses.mul_(0.5)

    found = one_step(tmp_path, lambda out: out.square().sum(1), halved)
    assert found.contexts[0].losses == []
    assert "changed in place" in found.description.problems["losses per sample"]
    assert found.description.problems.keys() == {"losses per sample"}


@pytest.mark.parametrize(
    "losses",
    [
        lambda out: out.square().sum(1),
        lambda out: out.square().sum(1).mul_(1.0),
        lambda out: out.square().sum(1, keepdim=True).expand(-1, 3)[:, 1],
        lambda out: out.square().sum(1, keepdim=True).expand(-1, 3),
        lambda out: out.square().sum(1).bfloat16(),
    ],
    ids=["new", "changed before", "a view", "per token", "bfloat16"],
)
def test_losses_of_any_kind_are_kept_in_float32(tmp_path, losses):
    [kept] = one_step(tmp_path, losses).contexts[0].losses
    assert (kept.dtype, kept.shape) == (torch.float32, (4,))
    assert torch.equal(kept, kept[:1].expand(4))
    assert kept[0] > 0


def test_the_findings_that_open_meanwhile_are_in_the_same_file(tmp_path):
    _, monitor, _ = train(record=tmp_path, bad=17)
    assert any(f.rule == "non_finite_value" for f in only(monitor).description.findings)


def test_a_healthy_training_writes_nothing(tmp_path):
    _, monitor, _ = train(record=tmp_path)
    assert monitor.recordings == ()
    assert list(tmp_path.iterdir()) == []


def test_by_default_nothing_is_recorded(tmp_path):
    _, monitor, _ = train(record=False, bad=17)
    assert monitor.recordings == ()
    assert not list(tmp_path.rglob("*.zip"))


def test_true_writes_into_the_home_of_the_settings(tmp_path):
    _, monitor, _ = train(record=True, bad=17)
    [path] = monitor.recordings
    assert path.parent == tmp_path / "home" / "recordings" / monitor.run


def test_the_statistics_are_those_that_the_diagnosis_read(tmp_path):
    _, monitor, _ = train(record=tmp_path, poisoned_step=6, every=1)
    found = only(monitor)
    history = monitor._diagnosis.history.scalar("loss")
    known = dict(zip(history.steps.tolist(), history.values.tolist(), strict=True))
    recorded = found.scalar("loss")
    assert recorded
    assert all(known[step] == value for step, value in recorded.items())
    streams = {frame.stream for frame in found.frames}
    assert {Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE, Stream.ACTIVATION} <= streams


def test_a_warning_freezes_the_ring_once_and_a_note_does_not(tmp_path):
    monitor = trainvitals.watch(network(), collector="off", record=tmp_path)
    recorder = monitor._recorder
    for step in range(5):
        recorder.step_ended(step)
    recorder.finding_opened(finding(Severity.INFO, code="TV805"))
    recorder.finding_opened(finding(step=3))
    recorder.finding_opened(finding(step=4))
    recorder.step_ended(5)
    monitor.close()
    about = only(monitor).description
    assert (about.reason, about.step, len(about.findings)) == ("finding", 3, 1)
    assert (about.first_step, about.last_step) == (0, 5)


def test_a_run_writes_at_most_three_files(tmp_path, monkeypatch):
    monkeypatch.setattr("trainvitals.recorder.recorder.WAIT_S", 0.0)
    monitor = trainvitals.watch(network(), collector="off", record=tmp_path)
    recorder = monitor._recorder
    for step in range(6):
        recorder.finding_opened(finding(where=f"layer{step}", step=step))
        recorder.step_ended(step)
        while recorder._pending is not None:
            time.sleep(0.01)
    monitor.close()
    assert len(monitor.recordings) == 3


def test_overflows_that_a_gradient_scaler_skips_are_no_reason(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    monitor = trainvitals.watch(model, optimizer, collector="off", record=tmp_path)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    for _ in range(4):
        x = torch.randn(16, 8)
        loss = monitor.loss(nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)))
        optimizer.zero_grad()
        scaler.scale(loss * 1e4).backward()
        scaler.step(optimizer)
        scaler.update()
    monitor.close()
    assert monitor.recordings == ()


# The file.


def test_the_file_is_json_and_arrays_and_has_no_pickle_of_code(tmp_path):
    _, monitor, _ = train(record=tmp_path, bad=17, record_state=True, config={"lr": 0.01})
    [path] = monitor.recordings
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == {"bundle.json", "arrays.npz", "state.pt"}
        about = json.loads(archive.read("bundle.json"))
        with archive.open("arrays.npz") as member:
            arrays = np.load(member, allow_pickle=False)
            assert all(arrays[name].dtype.kind in "iuf" for name in arrays.files)
        with archive.open("state.pt") as member:
            state = torch.load(member, weights_only=True)
    assert about["config"] == {"lr": 0.01}
    assert about["versions"]["torch"] == torch.__version__
    assert state["step"] == 0


def test_without_record_state_no_weights_are_written(tmp_path):
    _, monitor, _ = train(record=tmp_path, bad=17)
    assert only(monitor).snapshot is None


def test_the_recorded_state_is_that_of_the_start_of_its_step(tmp_path):
    torch.manual_seed(0)
    expected = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    _, monitor, _ = train(record=tmp_path, bad=17, record_state=True)
    state = only(monitor).snapshot.models[""]
    assert all(torch.equal(state[n], v) for n, v in expected.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "other.zip"
    path.write_bytes(content)
    with pytest.raises(bundle.BundleError, match="not a bundle"):
        bundle.read(path)


def test_a_newer_version_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "newer.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bundle.json", '{"version": 2}')
    with pytest.raises(bundle.BundleError, match=r"bundle version 2; this trainvitals reads 1"):
        bundle.read(path)


# Random states.


def test_the_random_states_are_those_before_the_batch_was_read(tmp_path):
    _, monitor, losses = train(record=tmp_path, bad=17, epochs=1, record_state=True)
    found = only(monitor)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    model.load_state_dict(found.snapshot.models[""])
    context = found.contexts[0]
    torch.set_rng_state(context.of_torch.cpu)
    rows = [noisy_samples(bad=17)[i] for i in context.batches[0].tolist()]
    x, y = (torch.stack(parts) for parts in zip(*rows, strict=True))
    loss = nn.functional.cross_entropy(model(x), y, reduction="none")
    assert torch.equal(loss.nan_to_num(), losses[0].nan_to_num())


def test_the_states_of_python_and_numpy_survive_the_file(tmp_path):
    random.seed(5)
    random.gauss(0, 1)
    np.random.seed(6)
    np.random.randn()
    states = other_states()
    context = StepContext(4, others=states, others_step=4)
    ring = Ring()
    ring.end_step(context)
    about = bundle.Description(run="a", project="b", reason="finding", step=4)
    bundle.write(tmp_path / "a.zip", about, ring.freeze(), None)
    others = bundle.read(tmp_path / "a.zip").contexts[4].others
    assert others.python == states.python
    assert others.numpy[1].tolist() == states.numpy[1].tolist()
    assert others.numpy[2:] == states.numpy[2:]


# Bounds.


def test_the_ring_has_at_most_256_steps():
    ring = Ring()
    for step in range(1000):
        ring.frame(frame_of(step, 4))
        ring.end_step(StepContext(step))
    frozen = ring.freeze()
    assert [c.step for c in frozen.contexts] == list(range(744, 1000))
    assert [int(f.steps[0]) for f in frozen.frames] == list(range(744, 1000))


def test_the_ring_has_at_most_its_bytes_and_keeps_the_newest():
    ring = Ring(bytes_max=100_000)
    for step in range(100):
        ring.frame(frame_of(step, 1000))
        context = StepContext(step)
        context.add_batch(np.arange(500))
        ring.end_step(context)
        frozen = ring.freeze()
        size = sum(f.values.nbytes for f in frozen.frames) + sum(c.nbytes for c in frozen.contexts)
        assert ring.nbytes == size <= 100_000
    assert frozen.contexts[-1].step == int(frozen.frames[-1].steps[0]) == 99


def frame_of(step, size):
    values = np.zeros((1, size, 1), np.float32)
    return Frame(Stream.WEIGHT, 0, np.array([step]), np.array([0.0]), values)


# Errors.


def test_a_folder_that_cannot_be_written_is_reported_and_the_training_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    _, monitor, _ = train(record=tmp_path / "file" / "below", bad=17)
    assert monitor.recordings == ()
    assert "NotADirectoryError" in monitor.diagnosis().not_watched["flight recorder"]


def test_a_recorder_that_fails_switches_itself_off(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr("trainvitals.recorder.recorder.torch_states", broken)
    plain, _, _ = train(record=False)
    model, monitor, _ = train(record=tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True)
    )
    assert "failed 3 times" in monitor.diagnosis().not_watched["flight recorder"]


@pytest.mark.parametrize("given", [3, "", object()])
def test_an_invalid_folder_is_not_used(given, caplog):
    monitor = trainvitals.watch(network(), collector="off", record=given)
    monitor.close()
    assert monitor._recorder is None
    assert "record=" in caplog.text


def test_no_thread_is_left_and_none_is_started_without_a_reason(tmp_path):
    train(record=tmp_path)
    train(record=tmp_path, bad=17)
    assert not [t for t in threading.enumerate() if t.name == "trainvitals-recorder"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_records_nothing(tmp_path):
    monitor = trainvitals.watch(network(), collector="off", record=tmp_path)
    monitor._recorder.step_ended(0)
    child = os.fork()
    if not child:
        monitor._recorder.finding_opened(finding(step=0))
        monitor._recorder.step_ended(1)
        monitor._recorder.close()
        os._exit(len(list(tmp_path.iterdir())))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    monitor.close()


def test_it_closes_while_the_writer_ends(tmp_path):
    class Raced(Recorder):
        """The bundle that is pending is written right after it was looked at."""

        @property
        def _pending(self):
            found, self._kept = self._kept, None
            return found

        @_pending.setter
        def _pending(self, value):
            self._kept = value

    model = network()
    recorder = Raced(
        tmp_path, run="a", project="b", rank=0, models={"": model}, optimizers=lambda: []
    )
    recorder.finding_opened(finding(step=0))
    recorder.step_ended(0)
    recorder.close()
    assert len(recorder.bundles) == 1
