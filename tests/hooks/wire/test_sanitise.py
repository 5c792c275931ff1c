"""Whatever a program names, logs or raises is made storable before it is encoded."""

from argparse import Namespace
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainvitals import identity
from trainvitals.wire import (
    Batch,
    Dropped,
    Event,
    Heartbeat,
    Layout,
    NotWatched,
    Place,
    RunEnd,
    RunStart,
    Stat,
    Stream,
    decode,
    encode,
)
from trainvitals.wire.sanitise import configuration, name, sanitised, text

SURROGATE, NUL = "a\ud800b", "a\x00b"
any_text = st.text(st.characters(codec=None), max_size=300)


def is_stored(record) -> bool:
    """Encode, decode with the collector's limits, and check as the collector does."""
    from trainvitals_server.store.prepare import prepare

    body = encode(Batch("r", "p", b"s" * 16, 0, 1.0, 0, (sanitised(record),)))
    prepare(decode(body), body)
    return True


class Unprintable:
    def __str__(self):
        raise RuntimeError("no text")


@dataclass
class Options:
    rate: float
    path: object


def loop():
    config: dict[str, object] = {"lr": 0.1}
    config["self"] = config
    return config


def deep(levels: int):
    config: object = "bottom"
    for _ in range(levels):
        config = {"x": config}
    return config


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"seed": 2**128}, id="an integer of 128 bits"),
        pytest.param({"seed": 10**10_000}, id="an integer that Python does not print"),
        pytest.param({SURROGATE: SURROGATE}, id="surrogates"),
        pytest.param({NUL: NUL}, id="NUL"),
        pytest.param(loop(), id="recursion"),
        pytest.param(deep(5000), id="depth"),
        pytest.param({"text": "x" * 5_000_000}, id="one text of 5 MB"),
        pytest.param({str(i): "x" * 50 for i in range(100_000)}, id="5 MB in many entries"),
        pytest.param({"rows": [[1.0] * 1000] * 1000}, id="a million numbers"),
        pytest.param({"object": Unprintable()}, id="an object without a text"),
        pytest.param({1: {2.5: b"\xff"}, None: {1, 2}}, id="keys that are no texts"),
        pytest.param(Unprintable(), id="an object"),
        pytest.param(Namespace(lr=0.1, seed=2**70), id="a namespace"),
    ],
)
def test_any_configuration_is_stored(config):
    plain = configuration(config)
    assert is_stored(RunStart(1.0, config=plain))
    assert len(msgspec.msgpack.encode(plain)) < 400_000


def test_an_ordinary_configuration_is_unchanged():
    config = {"lr": 0.1, "layers": [1, 2], "adam": {"betas": [0.9, 0.999]}, "amp": True, "n": None}
    assert configuration(config) == config
    assert configuration({"options": Options(0.1, ("a", 1))}) == {
        "options": {"rate": 0.1, "path": ["a", 1]}
    }


def test_what_is_left_out_of_a_large_configuration_is_said():
    plain = configuration({str(i): "x" * 1000 for i in range(1000)})
    kept = len(plain) - 1
    assert 200 < kept < 300
    assert plain["…"].startswith(f"{1000 - kept} entries are left out")


def test_what_repeats_itself_is_named_where_it_does():
    assert configuration(loop()) == {"lr": 0.1, "self": "(contains itself)"}


def test_the_same_object_in_two_places_is_no_recursion():
    shared = {"lr": 0.1}
    assert configuration({"a": shared, "b": shared}) == {"a": shared, "b": shared}


def test_long_names_stay_different_and_are_the_same_every_time():
    long = ["x" * 300 + end for end in "ab"]
    short = list(map(name, long))
    assert short[0] != short[1]
    assert short == list(map(name, long))
    assert all(len(s.encode()) <= 256 for s in short)
    assert name("encoder.0.weight") == "encoder.0.weight"


@given(any_text, any_text)
def test_names_that_differ_differ_afterwards(a, b):
    assert (name(a) == name(b)) == (a == b)


@given(any_text)
def test_a_name_is_valid_and_at_most_256_bytes(value):
    clean = name(value)
    assert len(clean.encode()) <= 256
    assert "\x00" not in clean
    assert name(clean) == clean


def test_a_shortened_text_shows_that_it_is():
    assert text("ä" * 100, 21) == "ä" * 9 + "…"


@pytest.mark.parametrize("bad", [SURROGATE, NUL, "n" * 300, "ü" * 200])
def test_every_record_with_a_bad_text_is_stored(bad):
    for record in (
        RunStart(
            float("nan"),
            name=bad,
            tags=(bad,),
            host=bad,
            argv=(bad,),
            versions={bad: bad},
            git_commit=bad,
            facts={bad: bad, "n": 2**80},
        ),
        Layout(Stream.SCALAR, 0, (Stat.VALUE,), (Place(bad, bad, module=bad, aliases=(bad,)),)),
        Event(2**70, float("inf"), bad, bad, {bad: bad}),
        NotWatched({bad: bad}),
        Heartbeat(float("nan"), -7),
        Dropped(-9, 2**60, bad, bad, -1),
        RunEnd(1.0, 2**60, "failed", error=bad),
    ):
        assert is_stored(record)


def test_places_stay_different_after_they_are_made_storable():
    names = ("w", "w", "w~2", NUL, "a\ufffdb")
    layout = sanitised(Layout(Stream.WEIGHT, 0, (Stat.L2,), tuple(map(Place, names))))
    assert len({place.name for place in layout.places}) == 5
    assert is_stored(layout)


@pytest.mark.parametrize(("steps", "kept"), [(2**70, None), (-1, None), (0, None), (10, 10)])
def test_planned_steps_that_no_run_has_are_left_out(steps, kept):
    start = identity.run_start(name="r", config=None, tags=(), total_steps=steps, facts={})
    assert start.total_steps == kept
    assert is_stored(start)


def test_arguments_that_are_not_utf8_are_stored(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--name=\udcff\udcfe"])
    start = identity.run_start(name="r", config=None, tags=(), total_steps=None, facts={})
    assert start.argv[1].startswith("--name=")
    assert is_stored(start)


def test_a_working_directory_that_is_gone_is_no_error(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    start = identity.run_start(name="r", config=None, tags=(), total_steps=None, facts={})
    assert start.git_commit == ""
