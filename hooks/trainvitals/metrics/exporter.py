"""Serve the metrics of this process's run to Prometheus, on a loopback port.

Comes in: the history and the diagnosis of the run, from the thread of the diagnosis.
Goes out: `GET /metrics` with the families of `RUN_FAMILIES`, in OpenMetrics or classic text.
Promise:  nothing raises into the training and no request waits for it: a scrape reads the newest
          `RunView`, which is immutable.
Start at `export`; the monitor calls `observe`, and `stop` at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from msgspec.structs import replace

from trainvitals.api.schema import Diagnosis, Run
from trainvitals.diagnosis.history import History
from trainvitals.metrics.families import RUN_FAMILIES, RunView
from trainvitals.metrics.vitals import AGE_MAX_S, Vitals, vitals_of

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = logging.getLogger("trainvitals")

HOST: Final = "127.0.0.1"
CORE_SHARE_MAX: Final = 0.005
POLL_S: Final = 0.05
"""Maximum time that `stop` waits for the server's thread."""
REQUEST_S: Final = 5.0
"""A client that sends nothing for this time is disconnected."""


class Exporter:
    """The newest values of one run, and the server that shows them. `cpu_s` is its CPU time."""

    def __init__(self, port: int, run: Run, overhead: Callable[[], float | None]) -> None:
        """Listen on `port` (0: a free one).

        `overhead` returns the share of the training time that trainvitals costs.

        Raises:
            ImportError: prometheus-client is not installed.
            OSError, OverflowError: the port is in use, not allowed, or does not exist.
        """
        from prometheus_client import make_wsgi_app
        from prometheus_client.core import CollectorRegistry

        self.cpu_s = 0.0
        self._overhead = overhead
        self._view = RunView(run)
        self._at = time.monotonic()
        self._next_at = 0.0
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Families(self.families))
        self._app = make_wsgi_app(registry)
        self._server = make_server(
            HOST, port, self._answer, server_class=_Server, handler_class=_Handler
        )
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            args=(POLL_S,),
            name="trainvitals-metrics",
            daemon=True,
        )
        self._thread.start()

    def observe(self, history: History, diagnosis: Diagnosis) -> bool:
        """Take the newest values; called in the thread of the diagnosis.

        Returns False, without reading the history, when it would use more than CORE_SHARE_MAX.
        """
        if time.monotonic() < self._next_at:
            return False
        started = time.thread_time()
        before = self._view
        vitals = vitals_of(history, before.vitals if before.vitals.step >= 0 else None)
        vitals = dataclasses.replace(vitals, layers=vitals.layers.at("run"))
        run = replace(
            before.run,
            step=history.last_step,
            last_report_at=time.time(),
            health=diagnosis.health if diagnosis.step >= 0 else None,
            overhead=self._overhead(),
        )
        found = Counter((f.rule, str(f.severity)) for f in diagnosis.findings if f.is_open)
        if run.step != before.run.step:
            self._at = time.monotonic()
        self._view = RunView(run, vitals, found)
        cost_s = time.thread_time() - started
        self._next_at = time.monotonic() + cost_s / CORE_SHARE_MAX
        return True

    def families(self) -> Iterator[Metric]:
        """Yield the families of the run that have a value now."""
        from trainvitals.metrics.exposed import add_run, metric_of, samples_of

        view = self._view
        if time.monotonic() - self._at > AGE_MAX_S:
            view = RunView(view.run, Vitals(), view.findings)
        metrics = {family.name: metric_of(family) for family in RUN_FAMILIES}
        add_run(metrics, view, samples_of(view))
        yield from (metric for metric in metrics.values() if metric.samples)

    def stop(self) -> None:
        """Close the port; waits for the server's thread for POLL_S."""
        self._server.shutdown()
        self._server.server_close()

    def forget(self) -> None:
        """Close the port in a forked child, where the thread does not exist."""
        with contextlib.suppress(OSError):
            self._server.socket.close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        started = time.thread_time()
        try:
            # A web page can reach the loopback interface through a host name that resolves to it.
            host = environ.get("HTTP_HOST", "").partition(":")[0]
            if host not in (HOST, "localhost"):
                start_response("421 Misdirected Request", [("Content-Length", "0")])
                return []
            if environ.get("PATH_INFO") != "/metrics":
                start_response("404 Not Found", [("Content-Length", "0")])
                return []
            answer: Iterable[bytes] = self._app(environ, start_response)
            return answer
        finally:
            self.cpu_s += time.thread_time() - started


class _Families:
    """A collector of prometheus-client."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self.collect = collect


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without the standard server's search for the host's name, which may query DNS."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]
        self.setup_environ()

    def handle_error(self, *_: object) -> None:
        """Log an error caused by a client; the standard server prints it on the terminal."""
        log.debug("A request for /metrics failed.", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S

    def log_message(self, *_: object) -> None:
        """Print no line for a request."""


def export(port: int, run: Run, overhead: Callable[[], float | None]) -> Exporter | None:
    """Return an exporter of `run` on `port`; None, with one warning, where that is not possible."""
    try:
        return Exporter(port, run, overhead)
    except ImportError:
        log.warning(
            "metrics_port is not used: it needs prometheus-client (pip install prometheus-client)."
        )
    except (OSError, OverflowError) as error:
        log.warning(
            "Port %d of metrics_port cannot be used (%s). The training goes on without /metrics; "
            "choose another with TRAINVITALS_METRICS_PORT.",
            port,
            error,
        )
    return None
