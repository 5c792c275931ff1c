"""A real Prometheus, Alertmanager and their tools for tests."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.ports import free_port
from helpers.require import require


def promtool(*arguments: str, stdin: bytes = b"", cwd: Path | None = None) -> str:
    """Run promtool; return what it said on both streams, and fail when it exits non-zero."""
    return _tool("promtool", *arguments, stdin=stdin, cwd=cwd)


def amtool(*arguments: str) -> str:
    """Run amtool; return what it said on both streams, and fail when it exits non-zero."""
    return _tool("amtool", *arguments)


def _tool(name: str, *arguments: str, stdin: bytes = b"", cwd: Path | None = None) -> str:
    done = subprocess.run(
        [require(name), *arguments], input=stdin, cwd=cwd, capture_output=True, timeout=60
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def lint(exposition: bytes) -> str:
    """Return what `promtool check metrics` complains of; "" when it is clean."""
    done = subprocess.run(
        [require("promtool"), "check", "metrics"],
        input=exposition,
        capture_output=True,
        timeout=60,
    )
    return done.stderr.decode() + ("" if done.returncode == 0 else f"exit {done.returncode}")


class Prometheus:
    """A running Prometheus, asked through its HTTP API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the (labels, value) pairs of an instant query, `__name__` left out."""
        wanted = urllib.parse.urlencode({"query": expression})
        answer = self._get(f"/api/v1/query?{wanted}")
        pairs = []
        for sample in answer["data"]["result"]:
            labels = {k: v for k, v in sample["metric"].items() if k != "__name__"}
            pairs.append((labels, float(sample["value"][1])))
        return pairs

    def until(
        self, expression: str, *, within_s: float = 30.0
    ) -> list[tuple[dict[str, str], float]]:
        """Return the query's answer as soon as it is not empty."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if found := self.query(expression):
                return found
            time.sleep(0.3)
        raise AssertionError(f"{expression} stayed empty for {within_s} s. {self.targets()}")

    def targets(self) -> list[dict[str, Any]]:
        """Return the scrape targets with their health and last error."""
        active: list[dict[str, Any]] = self._get("/api/v1/targets")["data"]["activeTargets"]
        return active

    def rules(self) -> list[str]:
        """Return the names of the rules it has loaded."""
        groups = self._get("/api/v1/rules")["data"]["groups"]
        return [rule["name"] for group in groups for rule in group["rules"]]

    def alertmanagers(self) -> list[str]:
        """Return HOST:PORT of each Alertmanager that it sends alerts to."""
        active = self._get("/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
        return [urllib.parse.urlsplit(manager["url"]).netloc for manager in active]

    def ready(self) -> bool:
        """Whether it answers queries."""
        return _is_ready(self.url)

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)


@contextlib.contextmanager
def running(config: Path, home: Path, *arguments: str) -> Iterator[Prometheus]:
    """Run Prometheus on a free port until the block ends; its data and log lie in `home`."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [
        require("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={home / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        *arguments,
    ]
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=home)
    try:
        prometheus = Prometheus(port)
        deadline = time.monotonic() + 30
        while not prometheus.ready():
            assert process.poll() is None, (home / "log").read_text()
            assert time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.1)
        yield prometheus
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def running_alertmanager(config: Path, home: Path) -> Iterator[int]:
    """Run an Alertmanager without peers until the block ends; yield its port."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [
        require("prometheus-alertmanager"),
        f"--config.file={config}",
        f"--storage.path={home / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=home)
    try:
        deadline = time.monotonic() + 30
        while not _is_ready(f"http://127.0.0.1:{port}"):
            assert process.poll() is None, (home / "log").read_text()
            assert time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False
