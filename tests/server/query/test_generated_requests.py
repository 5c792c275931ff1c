"""R8: requests that schemathesis generates from the description are answered as it says.

Every operation, also those that change something, with a token and without one.
"""

import copy

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from helpers.collector import running_collector
from helpers.released_schemas import BATCHES
from trainvitals.wire import CONTENT_TYPE
from trainvitals_server.app import create_app
from trainvitals_server.settings import Settings

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
OPEN = "/healthz"
KNOWN = {"run": "ended", "code": "TV101"}
"""Values of parameters in paths, so that not all answers are 404. They are not deleted."""
NOTHING = {"schema": {"type": "null"}}


schemathesis.openapi.media_type(CONTENT_TYPE, st.sampled_from(BATCHES) | st.binary(max_size=200))


def operations(api):
    """Return name → operation of a description."""
    found = [each.ok() for each in schemathesis.openapi.from_dict(api).get_all_operations()]
    return {f"{each.method.upper()} {each.path}": each for each in found}


API = create_app(Settings()).openapi()
OPERATIONS = operations(API)


@pytest.fixture(scope="module")
def collector(tmp_path_factory):
    with running_collector(tmp_path_factory.mktemp("api"), round_interval_s=0.2) as running:
        assert all(running.send(body).status_code == 200 for body in BATCHES)
        yield running


def generated_requests(collector, operation, examples):
    """Return a property: requests of this operation are answered as described."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(), st.booleans())
    def holds(case, is_known):
        if is_known and case.method != "DELETE":
            known = {name: KNOWN.get(name, at) for name, at in case.path_parameters.items()}
            case.path_parameters = known
        answer = case.call(base_url=collector.url, headers=collector.headers)
        case.validate_response(answer, checks=CHECKS)
        refused = case.call(base_url=collector.url)
        case.validate_response(refused, checks=CHECKS)
        assert refused.status_code == 401 or operation.path == OPEN

    return holds


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_generated_request_is_answered_as_described(collector, name):
    generated_requests(collector, OPERATIONS[name], 10)()


@pytest.mark.parametrize(
    ("status", "change"),
    [
        ("404", lambda answers: answers.pop("404")),
        ("200", lambda answers: answers["200"]["content"].update({"application/json": NOTHING})),
    ],
)
def test_an_answer_that_is_not_described_is_found(collector, status, change):
    api = copy.deepcopy(API)
    change(api["paths"]["/api/v1/runs/{run}"]["get"]["responses"])
    with pytest.raises(FailureGroup, match=status):
        generated_requests(collector, operations(api)["GET /api/v1/runs/{run}"], 10)()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_thousand_generated_requests_are_answered_as_described(collector, name):
    generated_requests(collector, OPERATIONS[name], 1000)()
