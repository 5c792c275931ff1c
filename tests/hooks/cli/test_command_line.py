"""The command: quick help, clear refusals, documented exit codes."""

import json
import os
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from trainvitals.cli import app as frame
from trainvitals.cli.app import COMMANDS, app

runner = CliRunner()


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch, tmp_path):
    for name in [n for n in os.environ if n.startswith("TRAINVITALS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def test_help_names_every_command():
    shown = runner.invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert [name for name in COMMANDS if name not in shown.stdout] == []


def test_help_loads_neither_torch_nor_a_server_nor_numpy():
    probe = (
        "import sys\nfrom trainvitals.cli import main\nsys.argv[1:] = ['--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*({'torch', 'fastapi', 'sqlalchemy', 'numpy', 'streamlit'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("heavy", ["torch", "numpy", "fastapi", "sqlalchemy", "streamlit"])
def test_help_loads_nothing_heavy(heavy):
    program = (
        "import sys\nfrom trainvitals.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"sys.exit({heavy!r} in sys.modules)"
    )
    command = [sys.executable, "-c", program, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{heavy} is loaded"
    assert "doctor" in done.stdout


def test_a_command_of_a_package_that_is_not_there_says_what_to_install(monkeypatch):
    monkeypatch.setattr(frame, "entry_points", lambda **_: [])
    done = runner.invoke(app, ["serve", "--port", "1"])
    assert done.exit_code == 2
    assert "pip install 'trainvitals[server]'" in done.stderr
    assert done.stdout == ""


def test_a_command_of_a_package_we_do_not_know_is_found(monkeypatch):
    class Other:
        name = "other"

        @staticmethod
        def load():
            return lambda app: app.command("greet")(lambda: print("hello"))

    monkeypatch.setattr(frame, "entry_points", lambda **_: [Other])
    assert runner.invoke(app, ["greet"]).stdout == "hello\n"


def test_an_unknown_command_is_a_usage_error():
    assert runner.invoke(app, ["nosuch"]).exit_code == 2


def test_the_version_is_one_line():
    shown = runner.invoke(app, ["version"]).stdout
    assert shown.count("\n") == 1
    assert runner.invoke(app, ["--version"]).stdout == shown
    assert runner.invoke(app, ["--version"]).exit_code == 0
    as_json = runner.invoke(app, ["version", "--json"]).stdout
    assert json.loads(as_json) == {"version": shown.strip()}


def test_rules_are_listed_and_each_has_a_page():
    listed = runner.invoke(app, ["rules"]).stdout
    assert runner.invoke(app, ["rules", "list"]).stdout == listed
    assert "TV101  vanishing_gradient" in listed
    page = runner.invoke(app, ["rules", "tv101"]).stdout
    assert "Why it matters" in page
    assert "gradient_ratio_min" in page
    assert runner.invoke(app, ["rules", "vanishing_gradient"]).stdout == page


def test_a_rules_page_as_json_has_its_thresholds_and_its_fix():
    page = json.loads(runner.invoke(app, ["rules", "TV201", "--json"]).stdout)
    assert page["rule"] == "dead_relu"
    assert page["thresholds"]["dead_share_error"]["default"] == 0.9
    assert page["fix"]


def test_a_rule_runs_on_its_examples_and_finds_the_sick_one():
    done = runner.invoke(app, ["rules", "run", "vanishing_gradient"])
    assert done.exit_code == 0
    sick, _, healthy = done.stdout.partition("on its healthy example")
    assert "TV101 vanishing_gradient" in sick
    assert healthy.split(":", 1)[1].strip() == "No finding."
    assert "Blind" not in done.stdout
    shown = json.loads(runner.invoke(app, ["rules", "run", "TV101", "--json"]).stdout)
    assert shown["sick"]["findings"][0]["code"] == "TV101"
    assert shown["healthy"]["findings"] == []
    note = runner.invoke(app, ["rules", "run", "monitor_degraded"])
    assert "INFO TV954 monitor_degraded at encoder.3" in note.stdout
    assert note.exit_code == 0


@pytest.mark.parametrize("arguments", [["run"], ["run", "TV000"], ["TV101", "TV201"]])
def test_rules_with_arguments_that_do_not_fit_are_a_usage_error(arguments):
    assert runner.invoke(app, ["rules", *arguments]).exit_code == 2


def test_an_unknown_rule_is_a_usage_error_that_names_the_rules():
    done = runner.invoke(app, ["rules", "TV000"])
    assert done.exit_code == 2
    assert "TV101" in done.stderr


def test_config_shows_where_each_value_comes_from(monkeypatch):
    monkeypatch.setenv("TRAINVITALS_PROJECT", "mnist")
    shown = json.loads(runner.invoke(app, ["config", "show", "--json"]).stdout)
    assert shown["project"] == {"value": "mnist", "origin": "TRAINVITALS_PROJECT"}
    assert shown["report"]["origin"] == "default"


def test_config_aligns_its_columns():
    lines = runner.invoke(app, ["config", "show"]).stdout.splitlines()
    columns = [line.rindex("default") for line in lines if line.endswith(" default")]
    assert len(columns) > 5
    assert len(set(columns)) == 1


def test_config_never_shows_a_token(monkeypatch):
    monkeypatch.setenv("TRAINVITALS_TOKEN", "tv_read_1_secret")
    assert "secret" not in runner.invoke(app, ["config", "show"]).stdout


def test_doctor_finds_a_token_file_that_others_can_read(tmp_path):
    (tmp_path / "home").mkdir()
    token = tmp_path / "home" / "token"
    token.write_text("tv_read_1_secret")
    token.chmod(0o644)
    done = runner.invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "chmod 600" in done.stdout
    assert "secret" not in done.stdout


def test_doctor_is_content_without_a_collector_until_one_is_set(monkeypatch):
    assert runner.invoke(app, ["doctor"]).exit_code == 0
    monkeypatch.setenv("TRAINVITALS_COLLECTOR", "http://127.0.0.1:9")
    done = runner.invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "✗ collector http://127.0.0.1:9" in done.stdout


def test_doctor_prints_its_checks_as_json(monkeypatch):
    monkeypatch.setenv("TRAINVITALS_COLLECTOR", "http://127.0.0.1:9")
    done = runner.invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    shown = runner.invoke(app, ["doctor"]).stdout.splitlines()
    signs = {"passed": "✓", "limited": "!", "failed": "✗"}
    assert [f"{signs[c['state']]} {c['text']}" for c in json.loads(done.stdout)] == shown


def test_doctor_counts_what_waits_to_be_sent(tmp_path):
    waiting = tmp_path / "home" / "spool" / "a"
    waiting.mkdir(parents=True)
    (waiting / "1.segment").write_bytes(b"x" * 2**20)
    said = runner.invoke(app, ["doctor"]).stdout
    assert ": 1 (1.0 MiB); `trainvitals sync` sends them now" in said


def test_no_collector_there_is_exit_code_3_and_quick():
    began = time.monotonic()
    done = runner.invoke(app, ["check", "r", "--collector", "http://127.0.0.1:9"])
    assert (done.exit_code, done.stdout) == (3, "")
    assert "does not answer" in done.stderr
    assert time.monotonic() - began < 5


def test_no_address_is_a_usage_error():
    assert runner.invoke(app, ["report", "r", "--collector", "nonsense"]).exit_code == 2
