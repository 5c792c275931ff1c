"""In real training code the numbers equal a float64 reference, and training is bit-identical.

Each program trains once without and once with a monitor. The reference copies the tensors around
each optimizer step by hand.
"""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from trainvitals.capture import Capture
from trainvitals.diagnosis.history import History
from trainvitals.wire import Stat, Stream

STEPS = 6


def batch(at, rows=8, width=4):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(at))


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))


def copies(tensors):
    return [None if t is None else t.detach().double().clone() for t in tensors]


class Loop:
    """A training program: `models`, `optimizers`, and `train`, which calls `step` to step."""

    models: dict
    optimizers: list

    def __init__(self):
        torch.manual_seed(0)
        self.watcher = self.losses = None
        self.build()

    def parameters(self):
        """Name → parameter, each once, as the run names them."""
        found = {}
        for prefix, model in self.models.items():
            for name, p in model.named_parameters(prefix):
                if not any(p is other for other in found.values()):
                    found[name] = p
        return found

    def step(self, optimizer, closure=None):
        """Step, and note what the reference needs: the latest step of each optimizer counts."""
        mine = {id(p) for g in optimizer.param_groups for p in g["params"]}
        named = {n: p for n, p in self.parameters().items() if id(p) in mine}
        before = copies(named.values())
        if closure is None:
            gradients = copies(p.grad for p in named.values())
            optimizer.step()
        else:
            optimizer.step(closure)
            gradients = copies(p.grad for p in named.values())
        changes = [b - a for a, b in zip(before, copies(named.values()), strict=True)]
        for name, w, g, u in zip(named, before, gradients, changes, strict=True):
            self.now[name] = (w, g, u)
        if optimizer is self.optimizers[0]:
            self.reference.append(self.now)
            self.now = {}

    def run(self, *, watch):
        self.now, self.reference = {}, []
        self.history = History()
        capture = None
        if watch:
            given = self.models if list(self.models) != [""] else self.models[""]
            capture = Capture(given, self.optimizers, emit=self.history.add, every=1)
        self.capture = capture
        self.train()
        if capture is not None:
            capture.detach()
        final = [p.detach().clone() for p in self.parameters().values()]
        return final, torch.get_rng_state()


class Plain(Loop):
    def build(self):
        self.models = {"": network()}
        self.optimizers = [torch.optim.AdamW(self.models[""].parameters(), lr=1e-2)]

    def forward(self, x):
        return self.models[""](x)

    def train(self):
        [optimizer] = self.optimizers
        for at in range(STEPS):
            optimizer.zero_grad()
            self.forward(batch(at)).square().mean().backward()
            self.step(optimizer)


class Accumulation(Plain):
    def train(self):
        [optimizer] = self.optimizers
        for at in range(STEPS):
            optimizer.zero_grad()
            for part in range(3):
                (self.forward(batch(10 * at + part)).square().mean() / 3).backward()
            self.step(optimizer)


class Closure(Plain):
    def build(self):
        self.models = {"": network()}
        self.optimizers = [torch.optim.LBFGS(self.models[""].parameters(), max_iter=3)]

    def train(self):
        [optimizer] = self.optimizers
        for at in range(STEPS):

            def closure(at=at):
                optimizer.zero_grad()
                loss = self.forward(batch(at)).square().mean()
                loss.backward()
                return loss

            self.step(optimizer, closure)


class Gan(Loop):
    """Five steps of the critic for each one of the generator, which is the first."""

    def build(self):
        self.models = {"generator": network(), "critic": nn.Linear(4, 1)}
        self.optimizers = [
            torch.optim.Adam(m.parameters(), lr=1e-2, betas=(0.5, 0.9))
            for m in self.models.values()
        ]

    def train(self):
        g, d = self.models.values()
        first, second = self.optimizers
        for at in range(STEPS):
            for part in range(5):
                second.zero_grad()
                real, fake = batch(100 * at + part), g(batch(100 * at + part + 50)).detach()
                (d(fake).mean() - d(real).mean()).backward()
                self.step(second)
            first.zero_grad()
            (-d(g(batch(at))).mean()).backward()
            self.step(first)


class Alternating(Loop):
    def build(self):
        self.models = {"a": network(), "b": network()}
        self.optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in self.models.values()]

    def train(self):
        for at in range(2 * STEPS):
            optimizer = self.optimizers[1 - at % 2]
            for one in self.optimizers:
                one.zero_grad()
            a, b = self.models.values()
            b(a(batch(at))).square().mean().backward()
            self.step(optimizer)


class Tied(Plain):
    def build(self):
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        model[2].weight = model[0].weight
        self.models = {"": model}
        self.optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-2)]


class TwoGroups(Plain):
    """One parameter is in two groups of one optimizer, which torch warns about."""

    def build(self):
        model = network()
        self.models = {"": model}
        groups = [{"params": list(model.parameters())}, {"params": list(model[2].parameters())}]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = torch.optim.SGD(groups[0]["params"], lr=0.1)
            # add_param_group refuses a duplicate; a program that loads a state can have one.
            optimizer.param_groups.append({**optimizer.param_groups[0], **groups[1]})
        self.optimizers = [optimizer]


class CalledTwice(Plain):
    def forward(self, x):
        model = self.models[""]
        return model[2](torch.tanh(model[0](model[2](torch.tanh(model[0](x))))))


class Thawing(Plain):
    """The first layer is frozen, thawed at step 2, and the last is frozen at step 4."""

    def train(self):
        model, [optimizer] = self.models[""], self.optimizers
        for at in range(STEPS):
            model[0].requires_grad_(at >= 2)
            model[2].requires_grad_(at < 4)
            optimizer.zero_grad()
            self.forward(batch(at)).square().mean().backward()
            self.step(optimizer)


class Growing(Plain):
    def train(self):
        model, [optimizer] = self.models[""], self.optimizers
        for at in range(STEPS):
            if at == 3:
                model.append(nn.Linear(4, 2))
                optimizer.add_param_group({"params": list(model[3].parameters())})
            optimizer.zero_grad()
            self.forward(batch(at)).square().mean().backward()
            self.step(optimizer)


class ZeroedInPlace(Plain):
    def train(self):
        [optimizer] = self.optimizers
        for at in range(STEPS):
            optimizer.zero_grad(set_to_none=False)
            self.forward(batch(at)).square().mean().backward()
            self.step(optimizer)


class InPlace(Plain):
    def build(self):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))
        self.models = {"": model}
        self.optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-2)]


class Reentrant(Plain):
    reentrant = True

    def build(self):
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 4))
        self.models = {"": model}
        self.optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-2)]

    def forward(self, x):
        model = self.models[""]
        hidden = checkpoint(model[:3], x.requires_grad_(), use_reentrant=self.reentrant)
        return checkpoint(model[3], hidden, use_reentrant=self.reentrant)


class NonReentrant(Reentrant):
    reentrant = False


class Evaluating(Plain):
    def train(self):
        model, [optimizer] = self.models[""], self.optimizers
        for at in range(STEPS):
            optimizer.zero_grad()
            self.forward(batch(at)).square().mean().backward()
            self.step(optimizer)
            model.eval()
            with torch.no_grad():
                self.forward(batch(at) * 1e6)
            model.train()


class SparseGradients(Plain):
    def build(self):
        model = nn.Sequential(nn.Embedding(50, 4, sparse=True), nn.Linear(4, 4))
        self.models = {"": model}
        self.optimizers = [torch.optim.SGD(model.parameters(), lr=0.1)]

    def forward(self, x):
        return self.models[""](x.abs().mul(3).long())


def sparse_to_dense(tensor):
    return tensor.to_dense() if tensor.is_sparse else tensor


PROGRAMS = [
    Plain,
    Accumulation,
    Closure,
    Gan,
    Alternating,
    Tied,
    TwoGroups,
    CalledTwice,
    Thawing,
    Growing,
    ZeroedInPlace,
    InPlace,
    Reentrant,
    NonReentrant,
    Evaluating,
    SparseGradients,
]


@pytest.fixture(params=PROGRAMS, ids=lambda p: p.__name__, scope="module")
def runs(request):
    program = request.param()
    plain = program.run(watch=False)
    program = request.param()
    watched = program.run(watch=True)
    return program, plain, watched


def test_training_and_random_numbers_are_bit_identical(runs):
    program, (plain, plain_state), (watched, state) = runs
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert torch.equal(plain_state, state)
    assert not program.capture._guard._errors


def statistics(x):
    if x is None:
        return [np.nan] * 7
    x = sparse_to_dense(x)
    parts = x.norm(), x.mean(), x.std(correction=0), x.min(), x.max(), x.abs().mean()
    return [*(float(v) for v in parts), float((x == 0).double().mean())]


STATISTICS = [Stat.L2, Stat.MEAN, Stat.STD, Stat.MIN, Stat.MAX, Stat.ABS_MEAN, Stat.ZERO_SHARE]


@pytest.mark.parametrize("stream", [Stream.WEIGHT, Stream.GRADIENT])
def test_weights_and_gradients_equal_the_reference(runs, stream):
    program, _, _ = runs
    which = [Stream.WEIGHT, Stream.GRADIENT].index(stream)
    for at, reference in enumerate(program.reference):
        for name, tensors in reference.items():
            found = [program.history.series(stream, s, name) for s in STATISTICS]
            values = [course.values[course.steps == at] for course in found]
            if stream is Stream.WEIGHT and not len(values[0]):
                continue
            values = [v[0] if len(v) else np.nan for v in values]
            # Frozen weights are measured once.
            if stream is Stream.WEIGHT and np.isnan(values[0]):
                assert tensors[1] is None
                continue
            expected = statistics(tensors[which])
            np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-8, err_msg=name)


def test_updates_equal_the_reference(runs):
    program, _, _ = runs
    for at, reference in enumerate(program.reference):
        for name, (before, gradient, update) in reference.items():
            course = program.history.series(Stream.UPDATE, Stat.RMS, name)
            [value] = course.values[course.steps == at]
            if gradient is None and np.isnan(value):
                continue
            rms = float(update.square().mean().sqrt())
            np.testing.assert_allclose(value, rms, rtol=1e-5, atol=1e-12, err_msg=name)
            ratio = program.history.series(Stream.UPDATE, Stat.RATIO, name)
            had = float(before.square().mean().sqrt())
            if had > 0:
                np.testing.assert_allclose(
                    ratio.values[ratio.steps == at], [rms / had], rtol=1e-5, atol=1e-12
                )


def test_the_total_norm_is_that_of_all_gradients(runs):
    program, _, _ = runs
    course = program.history.scalar("gradient_norm")
    for at, reference in enumerate(program.reference):
        gradients = [sparse_to_dense(g) for _, g, _ in reference.values() if g is not None]
        total = torch.cat([g.flatten() for g in gradients]).norm()
        np.testing.assert_allclose(course.values[course.steps == at], [float(total)], rtol=1e-5)


def test_there_is_one_step_for_each_step_of_the_first_optimizer(runs):
    program, _, _ = runs
    assert program.capture.step == len(program.reference) - 1 == STEPS - 1
