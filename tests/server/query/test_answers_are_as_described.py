"""R8: every answer has the status and the shape that the description of the API names."""

import re
from functools import lru_cache

import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.collector import running_collector
from helpers.released_schemas import BATCHES
from trainvitals_server.app import create_app
from trainvitals_server.settings import Settings

API = create_app(Settings()).openapi()
READS = sorted(path for path, operations in API["paths"].items() if "get" in operations)
KNOWN = {"run": "ended", "code": "TV101"}
"""Values of parameters in paths, so that some answers are 200."""
ODD = st.one_of(
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["", "0", "-1", "9" * 30, "true", "weight", "scalar", "rms", "value", "loss"]),
)


@pytest.fixture(scope="module")
def collector(tmp_path_factory):
    with running_collector(tmp_path_factory.mktemp("api"), round_interval_s=0.2) as running:
        assert all(running.send(body).status_code == 200 for body in BATCHES)
        yield running


def assert_described(path, answer):
    """The status, the content type and, of JSON, the shape are in the description."""
    answers = API["paths"][path]["get"]["responses"]
    assert str(answer.status_code) in answers, f"{answer.url}: {answer.status_code} {answer.text}"
    assert answer.status_code not in (500, 501, 502)
    content = answers[str(answer.status_code)]["content"]
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in content, f"{answer.url}: {kind}"
    if kind.endswith("json"):
        validator(path, str(answer.status_code), kind).validate(msgspec.json.decode(answer.content))


@lru_cache
def validator(path, status, kind):
    shape = API["paths"][path]["get"]["responses"][status]["content"][kind]["schema"]
    return jsonschema.Draft202012Validator({**shape, "components": API["components"]})


def test_every_shape_that_the_description_refers_to_is_in_it():
    referred = set(re.findall(r"#/components/schemas/(\w+)", msgspec.json.encode(API).decode()))
    assert len(referred) > 40
    assert referred <= set(API["components"]["schemas"])


@pytest.mark.parametrize("path", READS)
def test_a_usual_read_is_answered_as_described(collector, path):
    named = path.format_map(KNOWN)
    series = {"stream": "scalar", "statistic": "value", "place": "loss"}
    chosen = series if path.endswith(("/series", "/heatmap", "/frames")) else {}
    answer = collector.get(named, **chosen)
    assert answer.status_code == 200, answer.text
    assert_described(path, answer)


def odd_reads(collector, examples):
    """Return a property: reads with any parameters are answered as described."""
    names = {
        path: [each["name"] for each in API["paths"][path]["get"].get("parameters", ())]
        for path in READS
    }

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def holds(data):
        path = data.draw(st.sampled_from([path for path in READS if names[path]]))
        chosen = {
            name: data.draw(st.sampled_from([KNOWN.get(name, "0"), data.draw(ODD)]))
            for name in data.draw(st.lists(st.sampled_from(names[path]), unique=True))
        }
        in_path = re.sub(r"{(\w+)}", lambda m: KNOWN[m[1]], path)
        query = {name: value for name, value in chosen.items() if f"{{{name}}}" not in path}
        assert_described(path, collector.get(in_path, **query))

    return holds


def test_reads_with_odd_parameters_are_answered_as_described(collector):
    odd_reads(collector, 25)()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_odd_reads_are_answered_as_described(collector):
    odd_reads(collector, 1000)()
