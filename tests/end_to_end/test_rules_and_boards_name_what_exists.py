"""Every metric and label that the shipped rules and boards use is one that a collector exports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parsed

from helpers.collector import running_collector
from helpers.prometheus import promtool
from trainvitals.wire import (
    STATISTICS,
    Batch,
    Dropped,
    Frame,
    Layout,
    Place,
    RunStart,
    Stat,
    Stream,
)

DEPLOY = Path(__file__).parents[2] / "deploy"
BOARDS = sorted((DEPLOY / "grafana").glob("v?/*.json"))
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
FROM_PROMETHEUS = {"job", "instance", "le"}
WORDS = {"by", "on", "without", "ignoring"}

every_board = pytest.mark.parametrize("path", BOARDS, ids=lambda p: f"{p.parent.name}-{p.stem}")


def expressions(node):
    """Yield every PromQL expression of a board, those of its variables included."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "expr":
                yield value
            elif key == "query" and isinstance(value, str) and value.startswith("label_values("):
                selector, _, label = (
                    value.removeprefix("label_values(").removesuffix(")").rpartition(", ")
                )
                yield f"count by ({label}) ({selector})"
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)


def used(expression):
    """Return (metrics, labels) of a PromQL expression."""
    text = re.sub(r'"[^"]*"', '""', expression)
    metrics = set(re.findall(r"[\w:]*trainvitals_[\w:]+", text))
    selected = {
        n for block in re.findall(r"\{([^}]*)\}", text) for n in re.findall(r"(\w+)\s*[=!]", block)
    }
    grouped = {
        n for block in re.findall(r"\bby \(([^)]*)\)", text) for n in re.findall(r"\w+", block)
    }
    return metrics, selected | grouped


def a_run_with_everything():
    """Return a batch whose run has a value in every family of runs."""
    steps = np.arange(100, dtype=np.int64)
    times = time.time() - 0.01 * np.arange(100, dtype=float)[::-1]
    loss = np.where(steps < 60, 2.3, np.nan)
    scalars = {
        "loss": loss,
        "nonfinite_loss": np.isnan(loss).astype(float),
        "nonfinite_gradients": 0.0,
        "gradient_norm": 1.0,
        "gradient_norm_before_clipping": 9.0,
        "learning_rate/0": 0.1,
        "loss_scale": 1024.0,
        "skipped_step": 0.0,
        "step_time_s": 0.01,
        "overhead": 0.01,
        "log/accuracy": 0.5,
    }
    table = np.stack([np.broadcast_to(v, 100) for v in scalars.values()], 1)[:, :, None]
    records = [
        RunStart(time.time() - 60, name="n", host="h", total_steps=500),
        Layout(Stream.SCALAR, 0, STATISTICS[Stream.SCALAR], tuple(map(Place, scalars))),
        Frame(Stream.SCALAR, 0, steps, times, table.astype(np.float32)),
        Dropped(0, 1, "record", "queue_full", 2),
    ]
    layers = tuple(Place(n, kind="weight", shape=(4, 4)) for n in ("a.weight", "b.weight"))
    for stream in (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE):
        columns = STATISTICS[stream]
        values = np.full((100, 2, len(columns)), 0.5, np.float32)
        if Stat.NONFINITE in columns:
            values[:, :, columns.index(Stat.NONFINITE)] = 0
        records += [Layout(stream, 0, columns, layers), Frame(stream, 0, steps, times, values)]
    return Batch("everything", "shop", b"e" * 16, 0, time.time(), 0, tuple(records))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return metric → labels of a real collector with a run, recorded series included."""
    home = tmp_path_factory.mktemp("collector")
    # Nothing listens there: attempts fail, and failed attempts are counted.
    channel = {"webhook": "http://127.0.0.1:9/", "key": "k" * 16}
    notifications = {"channels": {"team": channel}, "routes": [{"channels": ["team"]}]}
    with running_collector(
        home,
        metrics_detail="layer",
        metrics_scalars=("accuracy",),
        notifications=notifications,
    ) as collector:
        assert collector.send(a_run_with_everything()).status_code == 200
        deadline = time.monotonic() + 30
        awaited = ("trainvitals_findings_active{", "trainvitals_notifications_total{")
        while not all(name in (text := collector.get("/metrics").text) for name in awaited):
            assert time.monotonic() < deadline, text
            time.sleep(0.2)
        time.sleep(1.1)  # scrapes within a second share a snapshot
        text = collector.get("/metrics").text
    found: dict[str, set[str]] = {}
    for family in parsed(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    for rule in RULES:
        if "record" in rule:
            found[rule["record"]] = used(rule["expr"])[1]
    return found


def unknown(expression, exported):
    """Return the names in `expression` that nothing exports."""
    metrics, labels = used(expression)
    assert metrics or expression.startswith("up"), expression
    missing = metrics - exported.keys()
    known = set().union(*(exported.get(m, set()) for m in metrics))
    return missing | (labels - known - FROM_PROMETHEUS)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.get("alert", r.get("record")))
def test_a_rule_names_metrics_and_labels_that_are_exported(rule, exported):
    assert unknown(rule["expr"], exported) == set()


@every_board
def test_a_board_names_metrics_and_labels_that_are_exported(path, exported):
    found = list(expressions(json.loads(path.read_text())))
    assert found
    assert {name for e in found for name in unknown(e, exported)} == set()


def test_a_metric_or_a_label_that_does_not_exist_would_be_seen(exported):
    assert unknown('sum by (layr) (trainvitals_run_los{run="$run"})', exported) == {
        "trainvitals_run_los", "layr", "run"
    }  # fmt: skip


@pytest.mark.needs_prometheus
@every_board
def test_every_expression_of_a_board_is_promql(path, tmp_path):
    rules = [
        {"record": f"r{i}", "expr": e.replace("$", "")}
        for i, e in enumerate(expressions(json.loads(path.read_text())))
    ]
    groups = {"groups": [{"name": "board", "rules": rules}]}
    (tmp_path / "rules.yml").write_text(json.dumps(groups))  # JSON is YAML
    assert "SUCCESS" in promtool("check", "rules", "--lint=none", str(tmp_path / "rules.yml"))


def test_the_boards_are_what_boards_py_writes():
    program = [sys.executable, str(DEPLOY / "grafana/boards.py"), "--check"]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["fleet", "run", "layers", "collector"])
def test_both_schemas_show_the_same_panels_queries_and_variables(name):
    v1 = json.loads((DEPLOY / f"grafana/v1/{name}.json").read_text())
    v2 = json.loads((DEPLOY / f"grafana/v2/{name}.json").read_text())["spec"]
    assert list(expressions(v1["panels"])) == list(expressions(v2["elements"]))
    titles = [panel["spec"]["title"] for panel in v2["elements"].values()]
    assert titles == [panel["title"] for panel in v1["panels"]]
    variables = [variable["name"] for variable in v1["templating"]["list"]]
    assert variables == [variable["spec"]["name"] for variable in v2["variables"]]
    assert variables[0] == "datasource"
    if name in ("run", "layers"):
        assert "run" in variables
    placed = {item["spec"]["element"]["name"] for item in v2["layout"]["spec"]["items"]}
    assert placed == set(v2["elements"])


@every_board
def test_panels_do_not_overlap_and_fit_the_width(path):
    board = json.loads(path.read_text())
    if path.parent.name == "v1":
        boxes = [
            (p["gridPos"]["x"], p["gridPos"]["y"], p["gridPos"]["w"], p["gridPos"]["h"])
            for p in board["panels"]
        ]
    else:
        items = [item["spec"] for item in board["spec"]["layout"]["spec"]["items"]]
        boxes = [(i["x"], i["y"], i["width"], i["height"]) for i in items]
    cells = [(x + i, y + j) for x, y, w, h in boxes for i in range(w) for j in range(h)]
    assert len(cells) == len(set(cells))
    assert all(x + w <= 24 for x, _, w, _ in boxes)
