"""Settings come from arguments, the environment and files, in that order, and say from where."""

import logging
import os

import pytest

from trainvitals.config import load


@pytest.fixture(autouse=True)
def _clean(tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith("TRAINVITALS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_without_anything_the_defaults_hold():
    settings = load()
    assert (settings.collector, settings.project, settings.overhead) == ("", "default", 0.02)
    assert settings.token_file == settings.home / "token"
    assert set(settings.origins.values()) == {"default"}


def test_an_argument_wins_over_the_environment_and_that_over_files(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text('[tool.trainvitals]\nproject = "py"\nreport = "off"\n')
    (tmp_path / "trainvitals.toml").write_text('project = "toml"\noverhead = 0.5\n')
    monkeypatch.setenv("TRAINVITALS_OVERHEAD", "0.1")
    settings = load(project="mine")
    assert (settings.project, settings.overhead, settings.report) == ("mine", 0.1, "off")
    assert settings.origins["project"] == "argument"
    assert settings.origins["overhead"] == "TRAINVITALS_OVERHEAD"
    assert settings.origins["report"] == "pyproject.toml"
    assert load().origins["project"] == "trainvitals.toml"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OVERHEAD", "much"),
        ("OVERHEAD", "-1"),
        ("OVERHEAD", "nan"),
        ("REPORT", "loud"),
        ("DISABLED", "maybe"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_warning_and_the_default_holds(
    name, value, monkeypatch, caplog
):
    monkeypatch.setenv(f"TRAINVITALS_{name}", value)
    settings = load()
    assert (
        getattr(settings, name.lower())
        == {"OVERHEAD": 0.02, "REPORT": "auto", "DISABLED": False}[name]
    )
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


def test_a_broken_file_is_one_warning(tmp_path, caplog):
    (tmp_path / "trainvitals.toml").write_text("project = ")
    assert load().project == "default"
    assert "trainvitals.toml is not read" in caplog.text


def test_the_token_is_read_anew_from_its_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_TOKEN_FILE", str(tmp_path / "token"))
    settings = load()
    assert settings.read_token() == ""
    (tmp_path / "token").write_text("tv_ingest_1_x\n")
    assert settings.read_token() == "tv_ingest_1_x"


def test_the_token_is_in_no_printed_setting(monkeypatch):
    monkeypatch.setenv("TRAINVITALS_TOKEN", "secret")
    assert "secret" not in repr(load())


def test_without_a_home_directory_the_working_directory_has_the_files(
    tmp_path, monkeypatch, caplog
):
    def unknown(_user):
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setenv("TRAINVITALS_SPOOL_DIR", "~/spool")
    settings = load()
    assert settings.home == tmp_path / ".trainvitals"
    assert settings.spool_dir == settings.home / "spool"
    assert "use a path without ~" in caplog.text


def test_a_project_that_cannot_be_stored_is_one_warning(caplog):
    assert load(project="a\0b").project == "default"
    assert load(project="a\udcffb").project == "default"
    assert len(caplog.records) == 2


def test_thresholds_come_from_a_table_or_from_json(tmp_path, monkeypatch):
    (tmp_path / "trainvitals.toml").write_text("[rules.dead_relu]\ndead_share_error = 0.95\n")
    assert load().rules == {"dead_relu": {"dead_share_error": 0.95}}
    monkeypatch.setenv("TRAINVITALS_RULES", '{"TV101": {"gradient_ratio_min": 1e-6}}')
    settings = load()
    assert settings.rules == {
        "dead_relu": {"dead_share_error": 0.95},
        "TV101": {"gradient_ratio_min": 1e-6},
    }
    assert settings.origins["rules"] == "TRAINVITALS_RULES, trainvitals.toml"
    monkeypatch.setenv("TRAINVITALS_RULES", '{"dead_relu": {"dead_share_error": 0.8}}')
    assert load().rules == {"dead_relu": {"dead_share_error": 0.8}}


@pytest.mark.parametrize("value", ["{", "[1]", '{"dead_relu": 3}'])
def test_thresholds_that_are_no_table_are_one_warning(value, monkeypatch, caplog):
    monkeypatch.setenv("TRAINVITALS_RULES", value)
    assert load().rules == {}
    assert len(caplog.records) == 1
    assert "rules from TRAINVITALS_RULES is not used" in caplog.text
