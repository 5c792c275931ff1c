"""The dashboard and the real collector, on one port, as `trainvitals up` starts them."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from helpers import plain_http
from helpers.batches import batch, scalar_frame, scalars, start
from helpers.chromium import chromium, visit
from helpers.collector import running_collector
from trainvitals.api.schema import Diagnosis, Finding, Severity
from trainvitals_dashboard.client import Client, Problem
from trainvitals_dashboard.figures.charts import Chart
from trainvitals_dashboard.figures.curves import Line, StepRange
from trainvitals_dashboard.figures.updates import ChartPlan, message_of

LOSS = [float(x) for x in 2.3 * np.exp(-np.arange(60) / 20)]


@pytest.fixture
def collector(tmp_path):
    with running_collector(tmp_path) as running:
        sent = batch(start(name="first"), scalars("loss"), scalar_frame(range(60), LOSS), run="r1")
        assert running.send(sent).status_code == 200
        yield running


@pytest.fixture
def client(collector):
    return Client(collector.url, lambda: collector.token)


def test_the_client_understands_what_the_real_collector_answers(client):
    [run] = client.runs().value.runs
    assert (run.id, run.step) == ("r1", 59)
    detail = client.run("r1").value
    assert client.findings(detail).value.findings == ()
    assert client.layout(detail).value.of("scalar").places[0].name == "loss"
    [curve] = client.series(detail, "scalar", "value", ["loss"]).value.series
    assert curve.mean == pytest.approx(LOSS, rel=1e-6)
    assert client.heatmap(detail, "scalar", "value").value.places == ["loss"]


def test_the_client_understands_alerts_notifications_settings_and_version(collector, client):
    found = Finding(
        rule="dead_relu", code="TV201", severity=Severity.WARNING, since_step=3, summary="Dead."
    )
    collector.app.state.rounds.stop()  # it would diagnose the run anew
    pk = collector.store.run("r1").pk
    collector.store.save_diagnosis(pk, Diagnosis(findings=(found,), health=0.5, step=59))
    [alert] = client.alerts(severity="warning", state="running").value.alerts
    assert (alert.run, alert.rule, alert.summary) == ("r1", "dead_relu", "Dead.")
    assert client.alerts(severity="error").value.alerts == ()
    assert client.notifications().value.channels == ()
    assert client.settings().value.viewer.scope == "admin"
    assert client.version().database.startswith("sqlite")


@pytest.mark.parametrize("steps", [60, 5_000, 20_000])
def test_whole_message_and_live_updates_have_each_step_once(collector, client, steps):
    def send(first, last, sequence):
        values = [float(step) for step in range(first, last)]
        sent = batch(
            start(name="long"),
            scalars("loss"),
            scalar_frame(range(first, last), values),
            run="long",
            seq=sequence,
            source=b"another process!",
        )
        assert collector.send(sent).status_code == 200

    def next_message(sent):
        run = client.run("long").value

        def request(first, last, points):
            series = client.series(
                run, "scalar", "value", ["loss"], from_step=first, to_step=last, points=points
            )
            return [Line("loss", curve) for curve in series.value.series if curve.step]

        plan = ChartPlan(Chart("a", "Loss"), request)
        return message_of([plan], run.step, StepRange(), sent)

    def covered(points):
        return list(zip(points["step"], points.get("last", points["step"]), strict=True))

    send(0, steps, 0)
    sent = next_message(None)
    buckets = covered(sent.message["charts"][0]["series"][0]["points"])
    assert next_message(sent).message is sent.message
    for i in range(1, 4):
        send(steps + 30 * (i - 1), steps + 30 * i, i)
        sent = next_message(sent)
        buckets += covered(sent.message["charts"][0]["points"]["loss"])
    assert buckets[0][0] == 0
    assert buckets[-1][1] == steps + 89
    assert all(b[0] == a[1] + 1 for a, b in pairwise(buckets))


def test_it_understands_its_refusals(collector, client):
    with pytest.raises(Problem) as unknown:
        client.run("no-such-run")
    assert unknown.value.reason == "unknown_run"
    with pytest.raises(Problem) as refused:
        Client(collector.url, lambda: "tv_read_0_guess").runs()
    assert refused.value.reason == "unauthorised"


@pytest.mark.needs_chromium
@pytest.mark.timeout(120)
def test_up_serves_api_and_dashboard_on_one_port(tmp_path):
    command = [sys.executable, "-c", _UP, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url, token = process.stdout.readline().split()
        allowed = {"Authorization": f"Bearer {token}"}
        assert plain_http.get(f"{url}/api/v1/runs", headers=allowed).json()["runs"] == []
        assert plain_http.get(f"{url}/api/v1/runs").status_code == 401
        with chromium() as browser, visit(browser, url) as seen:
            seen.page.get_by_text("No runs yet").wait_for(timeout=20_000)
            seen.page.get_by_text(f'collector="{url}"').first.wait_for(timeout=20_000)
            assert (seen.errors, seen.foreign) == ([], [])
    finally:
        process.kill()
        process.wait(10)


_UP = """
import sys, time
from pathlib import Path
from trainvitals_server.cli import listening, uvicorn_config
from trainvitals_server.settings import Settings
import threading, uvicorn
wanted = Settings(home=Path(sys.argv[1]), port=0)
with listening(wanted) as listener:
    made = wanted.model_copy(update={"port": listener.getsockname()[1]})
    server = uvicorn.Server(uvicorn_config(made, mounts=True))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.05)
    print(made.url, made.token_path.read_text().strip(), flush=True)
    thread.join()
"""
"""In a process of its own: Streamlit's options are the process's."""
