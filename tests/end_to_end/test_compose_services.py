"""The services of docker-compose.yml start with its commands and environment, and are well.

No Docker here: each command is run as it stands in the file, with the image's environment from the
Dockerfile, in an otherwise empty environment. Only paths, host names and ports are mapped.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from helpers import plain_http
from helpers.batches import batch, scalar_frame, scalars, start
from helpers.ports import free_port
from helpers.postgres import running_postgres
from helpers.prometheus import Prometheus
from helpers.require import require
from trainvitals.wire import CONTENT_TYPE, encode

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
ALERTMANAGER = "prometheus-alertmanager"
BINARIES = Path(sys.executable).parent
IMAGE = dict(
    re.findall(r"(TRAINVITALS_\w+|PYTHON\w+|HOME)=(\S+)", (ROOT / "deploy/Dockerfile").read_text())
)


class Stack:
    """The services' processes, and what their paths and names stand for on this machine."""

    def __init__(self, home: Path, database_url: str) -> None:
        self.home = home
        self.ports = {inner: str(free_port()) for inner in ("8321", "8322", "9090", "9093")}
        for folder in ("data", "tokens", "prometheus", "secrets", "config", "alertmanager"):
            (home / folder).mkdir()
        self._map = {
            "/var/lib/trainvitals": str(home / "data"),
            "/run/trainvitals": str(home / "tokens"),
            "/run/secrets": str(home / "secrets"),
            "/etc/prometheus": str(home / "config"),
            "=/prometheus": f"={home / 'prometheus'}",
            "/etc/alertmanager": str(ROOT / "deploy/alertmanager"),
            "=/alertmanager": f"={home / 'alertmanager'}",
            "alertmanager:9093": f"127.0.0.1:{self.ports['9093']}",
            "http://collector": "http://127.0.0.1",
            "collector:8321": f"127.0.0.1:{self.ports['8321']}",
            "0.0.0.0": "127.0.0.1",
            **self.ports,
        }
        if database_url.startswith("sqlite"):
            database_url = self.mapped(database_url)
        (home / "secrets/database_url").write_text(database_url)
        for file in (ROOT / "deploy/prometheus").iterdir():
            text = self.mapped(file.read_text()).replace(": 15s", ": 1s").replace(": 10s", ": 1s")
            (home / "config" / file.name).write_text(text)

    def mapped(self, text: str) -> str:
        text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)  # compose's defaults
        # In one pass: what was put in is not replaced again.
        return re.sub("|".join(map(re.escape, self._map)), lambda m: self._map[m[0]], text)

    def environment(self, service: str) -> dict[str, str]:
        given = {**IMAGE, **SERVICES[service].get("environment", {})}
        return {
            "PATH": f"{BINARIES}:{ROOT / 'deploy'}:/usr/bin:/bin",
            **{name: self.mapped(value) for name, value in given.items()},
        }

    def run(self, service: str) -> subprocess.CompletedProcess[str]:
        """Run a job to its end."""
        return subprocess.run(
            self._command(service),
            env=self.environment(service),
            cwd=self.home / "data",
            capture_output=True,
            text=True,
            timeout=60,
        )

    @contextlib.contextmanager
    def up(self, service: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start a service, wait until its health check passes, and stop it at the end."""
        assert not self.healthy(service), "its health check passes before it runs"
        with open(self.home / f"{service}.log", "wb") as log:
            process = subprocess.Popen(
                self._command(service),
                env=self.environment(service),
                cwd=self.home / "data",
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            deadline = time.monotonic() + 60
            while not (self.listens(service) and self.healthy(service)):
                assert process.poll() is None, self.log(service)
                assert time.monotonic() < deadline, self.log(service)
                time.sleep(0.2)
            yield process
        finally:
            process.terminate()
            process.wait(30)

    def listens(self, service: str) -> bool:
        """Whether its port is open, which is cheaper to ask: some health checks start a Python."""
        [port] = re.findall(r"127\.0\.0\.1:(\d+)/", " ".join(self._check(service)))
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", int(port))) == 0

    def healthy(self, service: str) -> bool:
        check = self._check(service)
        if check[0] == "wget":
            require("wget")
        done = subprocess.run(check, env=self.environment(service), capture_output=True, timeout=30)
        return done.returncode == 0

    def log(self, service: str) -> str:
        return (self.home / f"{service}.log").read_text()

    def token(self, name: str = "token") -> str:
        return (self.home / "tokens" / name).read_text().strip()

    def _check(self, service: str) -> list[str]:
        return [self.mapped(word) for word in SERVICES[service]["healthcheck"]["test"][1:]]

    def _command(self, service: str) -> list[str]:
        command = [self.mapped(word) for word in SERVICES[service].get("command", [])]
        # The image's entry point, and its port, which the file leaves at the default.
        images = {"prometheus": ("prometheus", "9090"), "alertmanager": (ALERTMANAGER, "9093")}
        if service not in images:
            return command
        program, port = images[service]
        address = f"--web.listen-address=127.0.0.1:{self.ports[port]}"
        return [require(program), *command, address]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def stack(request, tmp_path_factory):
    home = tmp_path_factory.mktemp(request.param)
    with contextlib.ExitStack() as stack:
        if request.param == "postgres":
            server = stack.enter_context(running_postgres())
            database_url = stack.enter_context(server.database())
        else:
            database_url = (ROOT / "deploy/database_url.sqlite").read_text()
        yield Stack(home, database_url)


@pytest.fixture(scope="module")
def migrated(stack):
    """The stack after `migrate` has run once."""
    done = stack.run("migrate")
    assert done.returncode == 0, done.stderr
    return stack


@pytest.fixture(scope="module")
def running(migrated):
    """The stack with every service up, and the process of its collector."""
    with (
        migrated.up("collector") as collector,
        migrated.up("dashboard"),
        migrated.up("alertmanager"),
        migrated.up("prometheus"),
    ):
        yield migrated, collector


@pytest.mark.needs_postgres
def test_a_second_start_makes_no_other_token_and_token_files_are_for_one_user(migrated):
    before = migrated.token("prometheus_token")
    assert migrated.run("migrate").returncode == 0
    assert migrated.token("prometheus_token") == before
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in (migrated.home / "tokens").iterdir()
    }
    assert modes
    assert set(modes.values()) == {0o600}


@pytest.mark.needs_postgres
@pytest.mark.needs_prometheus
def test_the_whole_stack_starts_in_its_order_and_a_step_reaches_prometheus(running):
    stack, _ = running
    sent = batch(start(), scalars("loss"), scalar_frame([0, 1, 2], [3.0, 2.0, 1.0]), run="first")
    answer = plain_http.post(
        f"http://127.0.0.1:{stack.ports['8321']}/api/v1/ingest",
        content=encode(sent),
        headers={"Content-Type": CONTENT_TYPE, "Authorization": f"Bearer {stack.token()}"},
    )
    assert (answer.status_code, answer.json()["stored"]) == (200, True)
    prometheus = Prometheus(int(stack.ports["9090"]))
    found = prometheus.until('trainvitals_run_step{run="first"}')
    assert [value for _, value in found] == [2]
    assert "TrainvitalsRunBroken" in prometheus.rules()
    assert f"127.0.0.1:{stack.ports['9093']}" in prometheus.alertmanagers()


@pytest.mark.needs_postgres
@pytest.mark.needs_prometheus
def test_the_token_of_prometheus_may_read_and_nothing_else(running):
    stack, _ = running
    url = f"http://127.0.0.1:{stack.ports['8321']}"
    headers = {"Authorization": f"Bearer {stack.token('prometheus_token')}"}
    assert plain_http.get(f"{url}/metrics", headers=headers).status_code == 200
    sent = plain_http.post(
        f"{url}/api/v1/ingest", content=b"", headers={**headers, "Content-Type": CONTENT_TYPE}
    )
    assert sent.status_code == 403


@pytest.mark.needs_postgres
@pytest.mark.needs_prometheus
def test_the_database_address_is_in_no_command_line_and_no_log(running):
    stack, collector = running
    secret = (stack.home / "secrets/database_url").read_text()
    assert secret not in Path(f"/proc/{collector.pid}/cmdline").read_text()
    assert secret not in stack.log("collector")
