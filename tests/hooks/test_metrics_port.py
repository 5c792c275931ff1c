"""A training process can serve /metrics of its run; by default it does not."""

import socket
import time
import urllib.error
import urllib.request

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families as classic

import trainvitals
from helpers.ports import free_port
from helpers.prometheus import lint
from trainvitals.api.schema import Run
from trainvitals.metrics.exporter import Exporter, export
from trainvitals.metrics.families import RUN_FAMILIES


@pytest.fixture
def port(monkeypatch, tmp_path):
    chosen = free_port()
    monkeypatch.setenv("TRAINVITALS_METRICS_PORT", str(chosen))
    monkeypatch.setenv("TRAINVITALS_REPORT", "off")
    return chosen


def watched(steps=60, **options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    options = {"run": "exported", "project": "p", "total_steps": 100, **options}
    monitor = trainvitals.watch(model, optimizer, collector="off", every=1, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        inputs = torch.randn(16, 8)
        monitor.loss((model(inputs) - inputs.sum(1, keepdim=True)).square().mean()).backward()
        optimizer.step()
    return monitor


def scrape(port, path="/metrics", **headers):
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.urlopen(asked, timeout=5) as answer:
        return answer.read()


def step_on(port, step):
    """Return the page once it shows a step."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        body = scrape(port)
        if values(body).get("trainvitals_run_step") == step:
            return body
        time.sleep(0.05)
    raise AssertionError(body.decode())


def values(body):
    return {s.name: s.value for f in classic(body.decode()) for s in f.samples}


def is_open(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_the_run_is_served_under_the_names_of_the_collector(port):
    with watched():
        body = step_on(port, 59)
        shown = {f.name: f for f in classic(body.decode())}
        assert set(shown) <= {f"trainvitals_{family.name}" for family in RUN_FAMILIES}
        labels = {"project": "p", "run": "exported"}
        assert all(labels.items() <= s.labels.items() for f in shown.values() for s in f.samples)
        found = values(body)
        assert found["trainvitals_run_planned_steps"] == 100
        assert found["trainvitals_run_learning_rate"] == pytest.approx(0.05)
        assert found["trainvitals_run_loss"] > 0
        assert 1e-6 < found["trainvitals_run_update_ratio"] < 1
        assert 0 <= found["trainvitals_run_health"] <= 1
        assert found["trainvitals_run_capture_overhead_ratio"] > 0
    assert not is_open(port)


@pytest.mark.needs_prometheus
def test_promtool_finds_nothing_to_complain_of(port):
    with watched():
        assert lint(step_on(port, 59)) == ""


def test_by_default_no_port_is_open_and_nothing_of_it_is_loaded(monkeypatch):
    monkeypatch.setenv("TRAINVITALS_REPORT", "off")
    with watched(steps=1) as monitor:
        assert monitor._exporter is None


def test_a_port_in_use_is_one_warning_and_the_run_is_watched(port, caplog):
    with socket.create_server(("127.0.0.1", port)), watched() as monitor:
        [warning] = [r for r in caplog.records if "metrics_port" in r.getMessage()]
        assert str(port) in warning.getMessage()
        assert monitor.diagnosis().step == 59


def test_without_prometheus_client_it_is_one_warning(port, caplog, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    with watched(steps=3) as monitor:
        assert monitor.diagnosis().step == 2
    assert "pip install prometheus-client" in caplog.text


def test_a_port_that_does_not_exist_is_one_warning(caplog):
    assert export(70_000, A_RUN, lambda: None) is None
    assert "70000" in caplog.text


def test_each_process_of_a_machine_has_its_own_port(port, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with watched(steps=1):
        assert is_open(port + 1)
        assert not is_open(port)


A_RUN = Run(id="r", project="p", name="r", state="running", started_at=0, last_report_at=0, step=-1)


@pytest.fixture
def exporter():
    made = Exporter(0, A_RUN, lambda: None)
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("path", "headers", "code"),
    [("/", {}, 404), ("/metrics", {"Host": "evil.example"}, 421), ("/metrics/../etc", {}, 404)],
)
def test_other_paths_and_names_are_refused(exporter, path, headers, code):
    with pytest.raises(urllib.error.HTTPError) as refused:
        scrape(exporter.port, path, **headers)
    assert refused.value.code == code


def test_a_client_that_says_nothing_delays_neither_others_nor_the_end(exporter):
    with socket.create_connection(("127.0.0.1", exporter.port)):
        assert values(scrape(exporter.port))["trainvitals_run_info"] == 1
        started = time.monotonic()
        exporter.stop()
        assert time.monotonic() - started < 1


def test_many_observations_use_a_small_share_of_a_core(exporter):
    with watched(steps=40) as monitor:
        given = (monitor._diagnosis.history, monitor.diagnosis())
        begin, started = time.monotonic(), time.thread_time()
        while time.monotonic() - begin < 1:
            exporter.observe(*given)
            time.sleep(0.01)
        assert time.thread_time() - started < 0.05


def test_values_that_were_measured_long_ago_are_absent(monkeypatch):
    with watched(steps=40) as monitor:
        made = Exporter(0, A_RUN, lambda: 0.01)
        made.observe(monitor._diagnosis.history, monitor.diagnosis())
        before = values(scrape(made.port))
        made._at -= 301
        after = values(scrape(made.port))
        made.stop()
    assert "trainvitals_run_loss" in before
    assert "trainvitals_run_loss" not in after
    assert after["trainvitals_run_step"] == 39
