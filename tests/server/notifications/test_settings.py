"""Settings of notifications are checked, and their secrets are shown nowhere."""

import json

import pytest
from pydantic import ValidationError

from trainvitals_server.notification_settings import Channel, NotificationSettings
from trainvitals_server.settings import Settings

SECRET = "https://hooks.test/T0P/s3cr3t"
KEY = "signing-key-0123456789"


def test_a_file_of_settings_gives_channels_and_routes(tmp_path, monkeypatch):
    (tmp_path / "trainvitals.toml").write_text(
        "[notifications]\n"
        "cooldown_s = 60\n"
        "[notifications.channels.team]\n"
        f'webhook = "{SECRET}"\n'
        f'key = "{KEY}"\n'
        "[[notifications.routes]]\n"
        'channels = ["team"]\n'
        'severity = "warning"\n'
    )
    monkeypatch.chdir(tmp_path)
    chosen = Settings().notifications
    assert (chosen.cooldown_s, chosen.routes[0].severity) == (60, "warning")
    assert chosen.channels["team"].address == SECRET


def test_the_environment_gives_them_as_json_or_in_a_file(tmp_path, monkeypatch):
    text = json.dumps({"channels": {"team": {"webhook": SECRET, "key": KEY}}})
    monkeypatch.setenv("TRAINVITALS_NOTIFICATIONS", text)
    assert Settings().notifications.channels["team"].address == SECRET
    monkeypatch.delenv("TRAINVITALS_NOTIFICATIONS")
    (tmp_path / "secret").write_text(text)
    monkeypatch.setenv("TRAINVITALS_NOTIFICATIONS_FILE", str(tmp_path / "secret"))
    assert Settings().notifications.channels["team"].address == SECRET


def test_address_and_key_can_be_files(tmp_path):
    (tmp_path / "address").write_text(SECRET + "\n")
    (tmp_path / "key").write_text(KEY + "\n")
    channel = Channel(webhook_file=tmp_path / "address", key_file=tmp_path / "key")
    assert (channel.address, channel.signing_key) == (SECRET, KEY)


def test_secrets_are_not_in_the_text_of_the_settings():
    chosen = NotificationSettings.model_validate(
        {"channels": {"team": {"webhook": SECRET, "key": KEY}}}
    )
    for text in (repr(chosen), str(chosen), chosen.model_dump_json()):
        assert "s3cr3t" not in text
        assert KEY not in text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"channels": {"a": {}}}, "exactly one of"),
        ({"channels": {"a": {"webhook": SECRET, "apprise": SECRET, "key": KEY}}}, "exactly one of"),
        ({"channels": {"a": {"webhook": SECRET}}}, "needs a key"),
        ({"channels": {"a": {"webhook": SECRET, "key": "s3cr3t"}}}, "at least 16"),
        ({"channels": {"a": {"webhook": "file:///s3cr3t", "key": KEY}}}, "http:// or https://"),
        ({"channels": {"a": {"webhook_file": "/nowhere/s3cr3t", "key": KEY}}}, "cannot be read"),
        ({"channels": {"a b": {"webhook": SECRET, "key": KEY}}}, "names of channels"),
        ({"routes": [{"channels": ["nobody"]}]}, "do not exist: nobody"),
        ({"silences": [{"until": "2030-01-01T00:00:00"}]}, "time zone"),
        ({"channels": {"a": {"webhok": SECRET}}}, "Extra inputs"),
    ],
)
def test_a_mistake_is_refused_with_its_reason_and_without_the_secret(given, says):
    with pytest.raises(ValidationError) as refused:
        Settings(notifications=given)
    assert says in str(refused.value)
    assert "s3cr3t" not in str(refused.value)
