"""Arrow streams of curves and heat maps have the numbers of JSON bit for bit, in fewer bytes."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import plain_http
from helpers.batches import batch, frame, scalar_frame, scalars, start
from helpers.collector import running_collector
from trainvitals.api.arrow import ACCEPT, MEDIA_TYPE, NotArrow, heatmap_of, series_of
from trainvitals.api.client import Broken, Client
from trainvitals.wire import Layout, Place, Stat, Stream

NAMES = [f"h.{i}.weight" for i in range(50)]
ODD = ("fine", "broken", "late", "größe\U0001f600")
SERIES = "/api/v1/runs/r/series"
MAP = "/api/v1/runs/r/heatmap"


@pytest.fixture(scope="module")
def collector(tmp_path_factory):
    with running_collector(tmp_path_factory.mktemp("arrow"), round_interval_s=3600) as running:
        rng = np.random.default_rng(0)
        places = tuple(Place(name, depth=i) for i, name in enumerate(NAMES))
        layout = Layout(Stream.WEIGHT, 0, (Stat.L2,), places)
        values = 1 + 1e-3 * np.cumsum(rng.standard_normal((4000, 50, 1)), axis=0)
        for seq in range(4):
            rows = slice(1000 * seq, 1000 * (seq + 1))
            part = frame(Stream.WEIGHT, range(rows.start, rows.stop), values[rows])
            head = (start(), layout) if seq == 0 else ()
            assert running.send(batch(*head, part, seq=seq)).status_code == 200
        columns = np.ones((40, len(ODD)), "f4") / 3
        columns[3:6, 1] = np.nan
        columns[7, 1], columns[9, 1] = np.inf, -np.inf
        columns[:30, 2] = np.nan
        columns[11, 3], columns[12, 3] = np.float32(3e38), np.float32(1e-45)
        odd = batch(scalars(*ODD), scalar_frame(range(0, 400, 10), *columns.T), seq=4)
        assert running.send(odd).status_code == 200
        yield running


def in_arrow(collector, path: str, *, accept=f"{MEDIA_TYPE}, application/json;q=0.5", **query):
    headers = {**collector.headers, "Accept": accept}
    answer = plain_http.get(collector.url + path, params=query, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.headers["vary"] == "Accept"
    return answer.content


def both(collector, method: str, *arguments, **query):
    """Return what the client decodes from JSON and from Arrow, of one state of the store.

    The collector seals rows meanwhile, and a sealed segment answers with coarser spans.
    """
    clients = [Client(collector.url, collector.token, binary=b) for b in (False, True, False)]
    for _ in range(5):
        json, arrow, after = (getattr(c, method)("r", *arguments, **query) for c in clients)
        if repr(json) == repr(after):
            return json, arrow
    raise AssertionError("The answer in JSON changed between two requests, five times.")


@pytest.mark.parametrize("points", [1, 7, 40, 500])
def test_curves_are_equal_with_gaps_nan_and_infinities(collector, points):
    json, arrow = both(collector, "series", "scalar", "value", ODD, points=points)
    assert arrow == json
    assert repr(arrow) == repr(json)


@pytest.mark.parametrize("by", ["place", "block"])
@pytest.mark.parametrize(("stream", "statistic"), [("scalar", "value"), ("weight", "l2")])
@pytest.mark.parametrize("columns", [1, 13, 200])
def test_heat_maps_are_equal(collector, stream, statistic, by, columns):
    json, arrow = both(collector, "heatmap", stream, statistic, columns=columns, by=by)
    assert repr(arrow) == repr(json)


@pytest.mark.parametrize("query", [{"from_step": 5000}, {"from_step": 390, "to_step": 390}])
def test_a_range_without_or_with_one_measurement_is_equal(collector, query):
    for method, more in (("series", [ODD]), ("heatmap", [])):
        json, arrow = both(collector, method, "scalar", "value", *more, **query)
        assert repr(arrow) == repr(json)


def test_only_the_values_that_are_asked_for_are_sent(collector):
    json, arrow = both(collector, "series", "scalar", "value", ODD, value=["max", "mean"])
    assert repr(arrow) == repr(json)
    assert [(bool(c.max), bool(c.mean), c.min, c.last) for c in json.series] == [
        (True, True, [], [])
    ] * len(ODD)


def test_a_place_that_is_asked_for_twice_is_answered_twice(collector):
    json, arrow = both(collector, "series", "scalar", "value", ["fine", "fine"])
    assert len(arrow.series) == 2
    assert arrow == json


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    first=st.integers(0, 4100),
    length=st.integers(0, 4100),
    points=st.integers(1, 2000),
    places=st.lists(st.sampled_from(NAMES), min_size=1, max_size=5),
)
def test_any_range_is_equal(collector, first, length, points, places):
    query = {"from_step": first, "to_step": first + length, "points": points}
    json, arrow = both(collector, "series", "weight", "l2", places, **query)
    assert repr(arrow) == repr(json)


def test_the_columns_are_float32_with_nan_and_small_integers(collector):
    stream = in_arrow(collector, SERIES, stream="scalar", statistic="value", place=ODD)
    table = pa.ipc.open_stream(stream).read_all()
    assert {field.name: str(field.type) for field in table.schema} == {
        "place": "dictionary<values=string, indices=int16, ordered=0>",
        "step": "int64",
        "last_step": "int64",
        **dict.fromkeys(("min", "mean", "max", "last"), "float"),
        **dict.fromkeys(("nonfinite", "count"), "uint32"),
    }
    assert table.schema.metadata == {b"stream": b"scalar", b"statistic": b"value"}
    rows = [row for row in table.to_pylist() if row["place"] == "broken"]
    assert not {30, 40, 50} & {row["step"] for row in rows}
    [infinite] = [row for row in rows if row["step"] == 70]
    assert (infinite["nonfinite"], infinite["count"]) == (1, 0)
    assert np.isnan(infinite["mean"])


def test_50_curves_of_1000_buckets_and_a_map_fit_in_their_bytes(collector):
    query = {"stream": "weight", "statistic": "l2"}
    curves = {**query, "place": NAMES, "points": 1000}
    stream = in_arrow(collector, SERIES, **curves)
    assert sum(len(c.step) for c in series_of(stream).series) == 50_000
    assert len(stream) < 740_000
    assert len(collector.get(SERIES, **curves).content) > 6 * len(stream)
    assert len(in_arrow(collector, SERIES, **curves, value=["min", "mean", "max"])) < 560_000
    in_planes = in_arrow(collector, SERIES, accept=ACCEPT, **curves)
    assert series_of(in_planes) == series_of(stream)
    assert len(in_planes) < 520_000
    drawn = in_arrow(collector, SERIES, accept=ACCEPT, **curves, value=["min", "mean", "max"])
    assert len(drawn) < 400_000
    columns = {**query, "columns": 500}
    assert len(in_arrow(collector, MAP, **columns)) < 100_000


def test_json_is_the_default(collector):
    query = {"stream": "scalar", "statistic": "value", "place": "fine"}
    for accept in ("*/*", "application/json", f"{MEDIA_TYPE};q=0", "text/html"):
        headers = {**collector.headers, "Accept": accept}
        answer = plain_http.get(collector.url + SERIES, params=query, headers=headers)
        assert answer.headers["content-type"] == "application/json"


def test_a_problem_is_a_problem_also_for_a_client_of_streams(collector):
    headers = {**collector.headers, "Accept": MEDIA_TYPE}
    for path in (SERIES, MAP):
        query = {"stream": "weight", "statistic": "dead_share", "place": NAMES[0]}
        answer = plain_http.get(collector.url + path, params=query, headers=headers)
        assert (answer.status_code, answer.json()["reason"]) == (404, "unknown_series")


@pytest.mark.parametrize("decode", [series_of, heatmap_of])
def test_other_bytes_and_other_columns_are_refused(decode):
    sink = pa.BufferOutputStream()
    other = pa.table({"other": [1]})
    with pa.ipc.new_stream(sink, other.schema) as writer:
        writer.write_table(other)
    whole = sink.getvalue().to_pybytes()
    for body in (b"", b"{}", whole, whole[:-20], whole[:40]):
        with pytest.raises(NotArrow):
            decode(body)


def test_an_answer_that_is_cut_off_is_broken(collector):
    query = {"stream": "scalar", "statistic": "value", "place": "fine"}
    whole = in_arrow(collector, SERIES, **query)
    answer = (200, {"content-type": MEDIA_TYPE}, whole[: len(whole) // 2])
    client = Client(collector.url, exchange=lambda *_: answer, binary=True)
    with pytest.raises(Broken, match="Upgrade the older side"):
        client.series("r", "scalar", "value", ["fine"])
