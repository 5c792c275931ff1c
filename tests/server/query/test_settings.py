"""The settings that a collector shows: names and limits, never a secret or an address."""

import msgspec
import pytest

from helpers import plain_http
from helpers.collector import running_collector
from trainvitals.api.schema import CollectorSettings
from trainvitals_server.auth import Scope
from trainvitals_server.query.settings import SHOWN
from trainvitals_server.settings import Settings

HIDDEN = {
    "home",
    "database_url",
    "token_file",
    "host",
    "tls_certificate",
    "tls_key",
    "allowed_hosts",
    "prometheus_targets",
    "rules",
    "notifications",
}
"""Paths, addresses, secrets, and settings that the API returns in another form."""
SECRETS = ("s3cr3t-path", "s3cr3t-key-0123456789", "s3cr3t-host")


@pytest.fixture(scope="module")
def collector(tmp_path_factory):
    channel = {"webhook": f"http://127.0.0.1:9/{SECRETS[0]}", "key": SECRETS[1]}
    with running_collector(
        tmp_path_factory.mktemp("settings"),
        notifications={"channels": {"team": channel}},
        allowed_hosts=(SECRETS[2],),
        retain_ended_days=30,
        metrics_scalars=("accuracy", "eval_*"),
        rules={"dead_relu": {"dead_share_error": 0.95, "no_such": 1}},
    ) as running:
        yield running


def shown(collector, token=None):
    headers = {"Authorization": f"Bearer {token or collector.token}"}
    answer = plain_http.get(f"{collector.url}/api/v1/settings", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.text, msgspec.json.decode(answer.content, type=CollectorSettings)


def test_each_setting_is_either_shown_or_hidden_on_purpose():
    assert set(Settings.model_fields) == SHOWN | HIDDEN
    assert not SHOWN & HIDDEN


def test_a_setting_has_its_value_its_default_and_its_variable(collector):
    known = {s.name: s for s in shown(collector)[1].settings}
    days = known["retain_ended_days"]
    assert (days.value, days.default, days.is_set) == ("30.0", "0", True)
    assert days.environment == "TRAINVITALS_RETAIN_ENDED_DAYS"
    assert days.description.startswith("Days after which")
    assert known["metrics_scalars"].value == "accuracy, eval_*"
    assert (known["series_max"].value, known["series_max"].is_set) == ("2000000", False)


def test_no_secret_path_or_address_is_sent(collector):
    text, told = shown(collector)
    assert not [secret for secret in (*SECRETS, str(collector.settings.home)) if secret in text]
    hidden = {s.name: s for s in told.settings if s.value is None}
    assert set(hidden) == HIDDEN
    assert hidden["notifications"].is_set
    assert not hidden["tls_key"].is_set


def test_thresholds_are_those_that_apply(collector):
    assert shown(collector)[1].thresholds == {"dead_relu": {"dead_share_error": 0.95}}


@pytest.mark.parametrize("project", [None, "shop"])
def test_the_rights_of_the_token_are_told_without_its_secret(collector, project):
    token = collector.app.state.tokens.create(Scope.READ, project=project)
    text, told = shown(collector, token)
    assert (told.viewer.scope, told.viewer.project) == ("read", project)
    assert told.viewer.id == token.split("_")[2]
    assert token.split("_", 3)[3] not in text
