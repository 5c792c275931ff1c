"""The Learner of fastai, really fitted: what it knows reaches the run.

fastai requires torchvision, whose wheel on PyPI cannot be loaded beside a torch without CUDA; the
import of other packages then fails, too. So `make test-all` installs fastai without torchvision,
and `make test` skips these tests.
"""

from __future__ import annotations

import pickle
import random

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.api.schema import Verdict
from trainvitals.recorder import bundle
from trainvitals.replay import replay

fastai = pytest.importorskip("fastai.learner", reason="fastai is not installed")
pytest.importorskip("fastai.callback.schedule")  # adds lr_find and fit_one_cycle
training = pytest.importorskip("fastai.callback.training")
DataLoaders = pytest.importorskip("fastai.data.core").DataLoaders
fastai_load = pytest.importorskip("fastai.data.load")
DataLoader = fastai_load.DataLoader
OptimWrapper = pytest.importorskip("fastai.optimizer").OptimWrapper
TrainvitalsCallback = pytest.importorskip("trainvitals.integrations.fastai").TrainvitalsCallback

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(240),
]


class Batches(fastai.Callback):
    order = 60

    def before_fit(self):
        self.losses = []

    def after_batch(self):
        if self.learn.training:
            self.losses.append(self.learn.loss.item())


def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=g)
    return TensorDataset(x, (x[:, 0] > 0).long())


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


def learner(*callbacks, on=None, loading=None, **more):
    train = DataLoader(on or data(), bs=32, **(loading or {}))
    loaders = DataLoaders(train, DataLoader(data(), bs=64))
    made = fastai.Learner(loaders, network(), nn.CrossEntropyLoss(), cbs=list(callbacks), **more)
    made.logger, made.create_mbar = fastai.noop, False
    return made


def fitted(made, rate=1e-2, epochs=3):
    made.fit(epochs, rate)
    return made


def watching(**options):
    return TrainvitalsCallback(**({"collector": "off", "every": 1} | options))


def values(callback, name):
    return callback.monitor._diagnosis.history.scalar(name).values.tolist()


def test_one_line_records_the_losses_the_epochs_and_the_plan():
    callback, batches = watching(), Batches()
    made = fitted(learner(callback, batches))
    assert values(callback, "loss") == pytest.approx(batches.losses, rel=1e-5)
    assert values(callback, "log/epoch") == [1, 2, 3]
    validation = [record[1] for record in made.recorder.values]
    assert values(callback, "loss/validation") == pytest.approx(validation[:-1], rel=1e-5)
    history = callback.monitor._diagnosis.history
    assert history.total_steps == 24
    assert callback.monitor.diagnosis().not_watched == {}


def test_the_learning_rate_is_that_of_the_schedule():
    callback = watching()
    made = learner(callback)
    made.fit_one_cycle(3, 1e-2)
    assert values(callback, "learning_rate/0") == pytest.approx(made.recorder.lrs, rel=1e-5)


def test_an_optimizer_of_torch_is_watched_itself():
    callback = watching()
    made = learner(callback, opt_func=lambda p, **k: OptimWrapper(p, torch.optim.AdamW, **k))
    fitted(made)
    assert callback.monitor._diagnosis.history.facts["optimizer"] == "AdamW"


def test_with_accumulation_a_step_is_one_update():
    callback, batches = watching(), Batches()
    fitted(learner(training.GradientAccumulation(64), training.GradientClip(), callback, batches))
    assert len(values(callback, "loss")) == 12


def test_a_fit_that_skips_epochs_continues_the_steps():
    callback = watching()
    learner(callback).fit(3, 1e-2, start_epoch=2)
    steps = callback.monitor._diagnosis.history.scalar("loss").steps.tolist()
    assert steps == list(range(16, 24))


def test_a_search_for_a_learning_rate_is_not_watched():
    callback = watching()
    learner(callback).lr_find(num_it=10, show_plot=False)
    assert callback.monitor is None


def test_a_learner_can_be_pickled():
    callback = watching()
    fitted(learner(callback), epochs=1)
    again = pickle.loads(pickle.dumps(callback))
    assert (again.monitor, again._options) == (None, {"collector": "off", "every": 1})


def test_a_healthy_fit_is_healthy_and_a_learning_rate_far_too_high_is_named():
    healthy, sick = watching(), watching()
    fitted(learner(healthy), epochs=16)
    fitted(learner(sick), rate=30.0, epochs=16)
    assert healthy.monitor.diagnosis().verdict is Verdict.HEALTHY
    assert sick.monitor.diagnosis().headline.rule == "learning_rate_too_high"


class Breaks(fastai.Callback):
    def after_batch(self):
        raise RuntimeError("a bad batch")


def test_a_fit_that_raises_is_failed_and_leaves_nothing_on_the_optimizer():
    callback = watching()
    made = learner(callback, Breaks())
    with pytest.raises(RuntimeError, match="a bad batch"):
        fitted(made)
    monitor = callback.monitor
    assert (monitor._closed, monitor._state) == (True, "failed")
    assert monitor._error.startswith("RuntimeError: ")  # fastai adds the name of the callback
    assert "a bad batch" in monitor._error
    assert "step" not in vars(made.opt)


def test_the_fit_is_the_same_bit_for_bit_and_leaves_nothing_on_the_optimizer():
    plain, watched = fitted(learner()), fitted(learner(watching()))
    pairs = zip(plain.model.parameters(), watched.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert "step" not in vars(watched.opt)


# The flight recorder.

BAD = 77


@pytest.mark.parametrize("workers", [0, 2])
def test_a_planted_bad_row_is_named_first(tmp_path, workers):
    rows = data()
    rows.tensors[0][BAD, 3] = float("nan")
    callback = watching(record=tmp_path)
    fitted(learner(callback, on=rows, loading={"shuffle": True, "num_workers": workers}), epochs=1)
    [path] = callback.monitor.recordings
    found = bundle.read(path)
    [indices] = found.contexts[found.description.step].batches
    assert (len(indices), BAD in indices) == (32, True)
    again = replay(found, network(), None, nn.CrossEntropyLoss(), rows)
    assert again.samples[0].index == BAD


class Kept(TrainvitalsCallback):
    def after_train(self):
        self.contexts = self.monitor._recorder._ring.freeze().contexts


def test_the_recorded_rows_are_those_of_the_batch_and_the_order_is_the_same(tmp_path):
    def seen(*callbacks):
        class Inputs(fastai.Callback):
            order = 60

            def before_fit(self):
                self.rows = []

            def before_batch(self):
                if self.learn.training:
                    self.rows.append(self.learn.xb[0])

        random.seed(0)
        inputs = Inputs()
        made = learner(*callbacks, inputs, loading={"shuffle": True})
        fitted(made, epochs=2)
        return torch.stack(inputs.rows), made.model[0].weight

    callback = Kept(collector="off", record=tmp_path)
    (plain, weight), (recorded, its_weight) = seen(), seen(callback)
    assert torch.equal(plain, recorded)
    assert torch.equal(weight, its_weight)
    of_steps = [data().tensors[0][context.batches[0]] for context in callback.contexts]
    assert torch.equal(torch.stack(of_steps), recorded)


class Skips(DataLoader):
    def create_item(self, index):
        if index == 3:
            raise fastai_load.SkipItemException
        return super().create_item(index)


def test_a_loader_that_skips_samples_is_named_at_the_end_of_its_epoch(tmp_path):
    callback = watching(record=tmp_path)
    made = learner(callback)
    made.dls[0].__class__ = Skips
    fitted(made, epochs=1)
    assert callback.monitor.diagnosis().not_watched["sample indices"]


class Halves(DataLoader):
    def create_batches(self, samples):
        return (self.do_batch([self.do_item(s) for s in pair]) for pair in pairs(samples))


def pairs(samples):
    found = list(samples)
    return [found[i : i + 16] for i in range(0, len(found), 16)]


def test_a_loader_that_makes_its_batches_itself_has_no_indices(tmp_path):
    callback = Kept(collector="off", record=tmp_path)
    made = learner(callback)
    made.dls[0].__class__ = Halves
    fitted(made, epochs=1)
    assert callback.monitor.diagnosis().not_watched["sample indices"]
    assert not any(context.batches for context in callback.contexts)
