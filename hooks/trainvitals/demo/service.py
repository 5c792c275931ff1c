"""The demo's collector and dashboard: a separate process with a separate home directory."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from trainvitals.api.client import Client

START_S = 60.0
STOP_S = 15.0
LOG_LINES = 15


class NotStarted(Exception):  # noqa: N818
    """The collector did not start; the message contains the last lines of its log."""


def environment(home: Path) -> dict[str, str]:
    """Return this process's environment with the demo's settings instead of the user's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TRAINVITALS_")}
    return kept | {"TRAINVITALS_HOME": str(home), "TRAINVITALS_REPORT": "card"}


class Service:
    """`trainvitals up` as a child process, until `close`."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.url = ""
        self.token_file = home / "token"
        self.log_file = home / "collector.log"
        port = port if _is_free(port) else 0
        command = [sys.executable, "-m", "trainvitals.cli", "up", "--port", str(port)]
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                cwd=home,  # so that the user's trainvitals.toml is not read
                env=environment(home),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C signals only the demo, which then terminates this child.
                start_new_session=True,
            )

    def wait_until_ready(self, log: Callable[[str], None]) -> Client:
        """Wait until the collector accepts batches, log its address, and return a client of it."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise NotStarted(f"The collector exited. The end of its log:\n{self._log_end()}")
            address = re.search(r"trainvitals collector: (\S+)", self._log())
            token_file = re.search(r"token file: +(.+)\n", self._log())
            if address and token_file:
                self.token_file = Path(token_file[1])
                collector = Client(address[1], self.token_file.read_text().strip())
                if collector.ready():
                    self.url = collector.url
                    log(f"Collector and dashboard at {self.url}, log in {self.log_file}")
                    return collector
            time.sleep(0.1)
        raise NotStarted(
            f"The collector was not ready after {START_S:.0f} s. The end of its log:\n"
            f"{self._log_end()}"
        )

    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def close(self) -> None:
        """Terminate the process; kill it after 15 s."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def _log_end(self) -> str:
        return "\n".join(self._log().splitlines()[-LOG_LINES:])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
