"""`trainvitals runs` lists the runs of a collector."""

from typer.testing import CliRunner

from helpers.fake_collector import fake_collector
from helpers.fake_runs import healthy_run
from trainvitals.cli.app import app


def test_a_row_has_the_name_and_the_project_also_where_the_name_is_the_id(monkeypatch):
    other = healthy_run("01KZ0000000000000000000000", project="", fields={"name": "calm-otter-17"})
    with fake_collector(healthy_run("base", project="vision"), other) as collector:
        monkeypatch.setenv("TRAINVITALS_TOKEN", collector.token)
        result = CliRunner().invoke(app, ["runs", "--collector", collector.url])
    assert result.exit_code == 0, result.output
    head, *rows = [line.split() for line in result.output.splitlines()]
    assert head[:5] == ["id", "name", "project", "verdict", "state"]
    assert rows[0][:4] == ["base", "base", "vision", "healthy"]
    assert rows[1][:3] == ["01KZ0000000000000000000000", "calm-otter-17", "healthy"]
