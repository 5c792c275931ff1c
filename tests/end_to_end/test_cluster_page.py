"""The page on clusters: its Slurm script runs, and its Kubernetes job is valid."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from helpers.collector import running_collector
from helpers.documented import fault_of
from trainvitals.api.client import Client

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clusters.md").read_text()
SCRIPT = re.search(r"```bash\n(#!/bin/bash\n.*?)```", PAGE, re.DOTALL)[1]
JOB = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
DISTRIBUTED = (ROOT / "docs" / "frameworks" / "distributed-data-parallel.md").read_text()
PROGRAM = re.search(r"```python\n(.*?)```", DISTRIBUTED, re.DOTALL)[1]
COMMANDS = {
    "srun": 'exec "$@"',
    "scontrol": "echo 127.0.0.1",
    "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    "trainvitals": f'exec {sys.executable} -m trainvitals "$@"',
}
"""What one machine has in place of the cluster's commands."""


def one_node(folder, collector):
    """Return the environment of a job on one node with two GPUs, whose commands are in `folder`."""
    for name, line in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    (folder / "trainvitals-ingest-token").write_text(collector.token)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TRAINVITALS_")}
    return kept | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HOME": str(folder),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_NNODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
        "TRAINVITALS_REPORT": "line",
    }


@pytest.mark.timeout(240)
def test_the_slurm_script_trains_and_both_ranks_arrive_as_one_run(tmp_path):
    (tmp_path / "train.py").write_text(PROGRAM)
    with running_collector(tmp_path / "collector") as collector:
        script = SCRIPT.replace("https://trainvitals.example.org", collector.url)
        script = script.replace(":29500", ":0").replace("/tmp/", f"{tmp_path}/")
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=one_node(tmp_path, collector),
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        assert f"are delivered to {collector.url}." in done.stdout
        [run] = Client(collector.url, collector.token).runs().runs
        detail = Client(collector.url, collector.token).run(run.id)
        assert (run.project, detail.completeness.complete) == ("vision", True)
        with sqlite3.connect(tmp_path / "collector" / "trainvitals.db") as database:
            ranks = database.execute("SELECT rank FROM source ORDER BY rank").fetchall()
        assert ranks == [(0,), (1,)]


def test_the_pod_of_the_job_is_valid_by_the_api():
    schema = json.loads((ROOT / "tests/helpers/kubernetes.schema.json").read_text())
    pod = {"$ref": "#/definitions/io.k8s.api.core.v1.PodTemplateSpec"}
    checked = Draft202012Validator(pod | {"definitions": schema["definitions"]})
    assert [error.message for error in checked.iter_errors(JOB["spec"]["template"])] == []
    broken = {"spec": {"containers": [{"name": "train", "comand": []}]}}
    assert list(checked.iter_errors(broken))


def test_the_job_mounts_what_its_variables_name_and_its_command_exists():
    pod = JOB["spec"]["template"]["spec"]
    [container] = pod["containers"]
    values = {each["name"]: each["value"] for each in container["env"]}
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert values["TRAINVITALS_HOME"] == mounts["spool"]
    assert Path(values["TRAINVITALS_TOKEN_FILE"]).parent == Path(mounts["token"])
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    assert container["command"][0] == "trainvitals"
    assert fault_of(container["command"][1:]) == ""
