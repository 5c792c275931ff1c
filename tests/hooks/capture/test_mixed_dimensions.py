"""Models that mix samples, or features and positions, and correct models of the same layers.

Batches have 12 samples of 5 positions with 6 features.
"""

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

import trainvitals  # noqa: E402
from trainvitals.capture.capture import Capture  # noqa: E402
from trainvitals.diagnosis.history import History  # noqa: E402
from trainvitals.diagnosis.rules.label_noise import LabelNoise  # noqa: E402
from trainvitals.diagnosis.rules.scrambled_input import ScrambledInput  # noqa: E402
from trainvitals.wire import EventKind  # noqa: E402

SAMPLES, POSITIONS, FEATURES = 12, 5, 6


class Recurrent(nn.Module):
    """A recurrent layer and a head on one of its outputs, which `read` takes."""

    def __init__(self, read, before=lambda x: x, kind=nn.GRU, **options) -> None:
        super().__init__()
        self.rnn = kind(FEATURES, 8, **options)
        self.head = nn.Linear(16 if options.get("bidirectional") else 8, 3)
        self.read, self.before = read, before

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(*self.rnn(self.before(x))))


class Attention(nn.Module):
    """Self-attention, with the mean over the positions of each sample."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(FEATURES, 2, **options)
        self.head = nn.Linear(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x)[0].mean(1))


class Embedded(nn.Module):
    """Token numbers, whose vectors are given to a GRU with the time in front by `turn`."""

    def __init__(self, turn) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(9, 6), nn.GRU(6, 8), nn.Linear(8, 3)
        self.turn = turn

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.turn(self.embed(x)))[0][-1])


class Pooled(nn.Module):
    """A mean of the positions, weighted by a softmax of scores over dimension `dim`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score, self.head, self.dim = nn.Linear(6, 1), nn.Linear(6, 3), dim

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.score(x).softmax(self.dim) * x).sum(1))


class TransformerOfTheLastPosition(nn.Module):
    def __init__(self, *, samples_first: bool) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=samples_first)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x)[:, -1])


def last_output(output: Tensor, _: object) -> Tensor:
    return output[:, -1]


def joined(_: Tensor, state: Tensor) -> Tensor:
    return state.reshape(SAMPLES, -1)


def trained(model: nn.Module, x: Tensor, y: Tensor | None = None) -> History:
    history, optimizer = History(), torch.optim.SGD(model.parameters(), 0.1)
    y = torch.randint(3, (SAMPLES,)) if y is None else y
    capture = Capture(model, optimizer, emit=history.add, every=1)
    for _ in range(3):
        optimizer.zero_grad()
        output = model(x)
        loss = nn.functional.cross_entropy(output.reshape(-1, output.shape[-1]), y.reshape(-1))
        capture.loss(loss)
        loss.backward()
        optimizer.step()
    capture.detach()
    return history


def how(history: History) -> str:
    return ",".join(e.text for e in history.events if e.kind == EventKind.MIXED_DIMENSIONS)


SERIES = torch.randn(SAMPLES, POSITIONS, FEATURES)
TOKENS = torch.randint(9, (SAMPLES, POSITIONS))
TURNED = "view_for_transpose"
TIMES = "samples_as_times"


@pytest.mark.parametrize(
    ("model", "x", "expected"),
    [
        (Recurrent(last_output), SERIES, TIMES),
        (Recurrent(last_output, kind=nn.LSTM), SERIES, TIMES),
        (Attention(), SERIES, TIMES),
        (TransformerOfTheLastPosition(samples_first=False), SERIES, TIMES),
        (Embedded(lambda x: x.view(POSITIONS, SAMPLES, -1)), TOKENS, TURNED),
        (
            Recurrent(lambda y, _: y[-1], before=lambda x: x.view(POSITIONS, SAMPLES, -1)),
            SERIES,
            TURNED,
        ),
        (Pooled(0), SERIES, "softmax_over_samples"),
        (
            Recurrent(joined, batch_first=True, bidirectional=True),
            SERIES,
            "parts_of_samples_joined",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_model_that_mixes_the_samples_of_a_batch_is_found_in_the_first_step(model, x, expected):
    history = trained(model, x)
    assert how(history) == expected
    (finding,) = LabelNoise().check(history)
    assert finding.severity == "error"
    assert finding.since_step == 0
    assert str(SAMPLES) in finding.summary
    assert "batch_first" in finding.advice


def _with_memory(x: Tensor) -> Tensor:
    """A similarity of all samples, as in a contrastive model: n × n."""
    return (x @ x.T).softmax(0) @ x


class Compared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(30, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(_with_memory(self.first(x.flatten(1))))


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (Recurrent(last_output, batch_first=True), SERIES),
        (Recurrent(lambda y, _: y[-1], before=lambda x: x.transpose(0, 1)), SERIES),
        (Recurrent(lambda _, h: h[-1], batch_first=True), SERIES),
        (
            Recurrent(
                lambda _, h: h.transpose(0, 1).reshape(SAMPLES, -1),
                batch_first=True,
                bidirectional=True,
            ),
            SERIES,
        ),
        (Attention(batch_first=True), SERIES),
        (TransformerOfTheLastPosition(samples_first=True), SERIES),
        (Embedded(lambda x: x.transpose(0, 1)), TOKENS),
        (Pooled(1), SERIES),
        (Compared(), SERIES),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_correct_model_of_the_same_layers_is_silent(model, x):
    history = trained(model, x)
    assert how(history) == ""
    assert list(LabelNoise().check(history)) == []


def test_a_model_with_the_time_in_front_and_a_prediction_for_each_time_is_silent():
    tagger = Recurrent(lambda y, _: y)
    assert how(trained(tagger, SERIES, torch.randint(3, (SAMPLES, POSITIONS)))) == ""


def test_one_series_without_further_samples_is_silent():
    one = torch.randn(SAMPLES, 1, FEATURES)
    assert how(trained(Recurrent(lambda y, _: y[:, 0]), one)) == ""


def test_as_many_positions_as_samples_are_silent():
    square = torch.randn(SAMPLES, SAMPLES, FEATURES)
    assert how(trained(Recurrent(last_output), square)) == ""


def test_the_fix_gives_each_sample_an_output_of_its_own():
    model = Recurrent(last_output)
    (finding,) = LabelNoise().check(trained(model, SERIES))
    exec(finding.fix, {"model": model})
    other = SERIES.clone()
    other[1:] = torch.randn(SAMPLES - 1, POSITIONS, FEATURES)
    assert torch.allclose(model(other)[0], model(SERIES)[0], atol=1e-6)
    assert how(trained(model, SERIES)) == ""


def test_a_checkup_finds_it_before_the_training():
    pair = SERIES, torch.randint(3, (SAMPLES,))
    diagnosis = trainvitals.checkup(Recurrent(last_output), pair, nn.CrossEntropyLoss())
    assert "TV807" in {finding.code for finding in diagnosis.findings}


class Convolved(nn.Module):
    """A convolution of images or of vectors of tokens, with their dimensions changed before."""

    def __init__(self, layer: nn.Module, before, embed: nn.Module | None = None) -> None:
        super().__init__()
        self.embed, self.layer = embed or nn.Identity(), layer
        self.head, self.before = nn.Linear(4, 3), before

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.before(self.embed(x))).flatten(2).mean(2))


IMAGES = torch.randn(SAMPLES, 8, 8, 3)
GREY = torch.randn(SAMPLES, 8, 8, 1)


@pytest.mark.parametrize(
    ("model", "x", "kind"),
    [
        (Convolved(nn.Conv2d(3, 4, 3), lambda x: x.view(-1, 3, 8, 8)), IMAGES, "Conv2d"),
        (Convolved(nn.Conv2d(3, 4, 3), lambda x: x.reshape(-1, 3, 8, 8)), IMAGES, "Conv2d"),
        (
            Convolved(nn.Conv1d(6, 4, 3), lambda x: x.view(SAMPLES, 6, -1), nn.Embedding(9, 6)),
            TOKENS,
            "Conv1d",
        ),
    ],
)
def test_a_view_where_dimensions_had_to_be_swapped_is_found(model, x, kind):
    history = trained(model, x)
    assert how(history) == "features_as_positions"
    (finding,) = ScrambledInput().check(history)
    assert finding.where == "layer"
    assert kind in finding.summary
    assert list(LabelNoise().check(history)) == []


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (Convolved(nn.Conv2d(3, 4, 3), lambda x: x.permute(0, 3, 1, 2)), IMAGES),
        (Convolved(nn.Conv2d(3, 4, 3), lambda x: x.permute(0, 3, 1, 2).contiguous()), IMAGES),
        (Convolved(nn.Conv2d(1, 4, 3), lambda x: x.view(-1, 1, 8, 8)), GREY),
        (Convolved(nn.Conv2d(3, 4, 3), lambda x: x.view(-1, 3, 8, 8)), IMAGES.view(SAMPLES, -1)),
        (Convolved(nn.Conv1d(6, 4, 3), lambda x: x.transpose(1, 2), nn.Embedding(9, 6)), TOKENS),
        (Convolved(nn.Conv2d(3, 4, 3), lambda x: x), IMAGES.permute(0, 3, 1, 2).contiguous()),
    ],
)
def test_swapped_dimensions_and_views_of_flat_images_are_silent(model, x):
    history = trained(model, x)
    assert how(history) == ""
    assert list(ScrambledInput().check(history)) == []
