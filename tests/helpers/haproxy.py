"""A real HAProxy with deploy/haproxy.cfg, before collectors on loopback ports."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.ports import free_port
from helpers.require import require

CONFIGURATION = Path(__file__).parents[2] / "deploy/haproxy.cfg"


@dataclass(frozen=True)
class Proxy:
    """Its address, and what a client needs to trust its certificate."""

    url: str
    trust: ssl.SSLContext


def environment(directory: Path, port: int, collectors: Sequence[int]) -> dict[str, str]:
    """Return the variables of the configuration, with a new certificate for localhost."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    made = [
        *(require("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt"),
        *("ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out"),
        str(certificate),
    ]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    both = directory / "both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    first, second = collectors
    return {
        **os.environ,
        "TRAINVITALS_BIND": f"127.0.0.1:{port}",
        "TRAINVITALS_PEM": str(both),
        "TRAINVITALS_COLLECTOR_1": f"127.0.0.1:{first}",
        "TRAINVITALS_COLLECTOR_2": f"127.0.0.1:{second}",
    }


@contextlib.contextmanager
def running_haproxy(directory: Path, collectors: Sequence[int]) -> Iterator[Proxy]:
    """Yield the proxy before two collectors. Skips, or fails with CI=true, without HAProxy."""
    port = free_port()
    variables = environment(directory, port, collectors)
    with (directory / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            [require("haproxy"), "-db", "-f", str(CONFIGURATION)],
            env=variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 20
        while not _accepts(port):
            assert process.poll() is None, (directory / "haproxy.log").read_text()
            assert time.monotonic() < deadline, "HAProxy does not start"
            time.sleep(0.05)
        trust = ssl.create_default_context(cafile=str(directory / "certificate.pem"))
        yield Proxy(f"https://localhost:{port}", trust)
    finally:
        process.terminate()
        process.wait(20)


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
