"""The time that the training thread needs to pass a record to delivery.

Frames of a model of 500 tensors are given to a Shipper at the pace of a fast training, while its
threads pack, compress and send them to a collector that answers. The figures are the median and the
99th percentile of single calls, in microseconds of wall time.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainvitals.ship import Shipper
from trainvitals.wire import STATISTICS, Frame, Layout, Place, Stream, decode

TENSORS = 500
STREAMS = (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE)


class HandOver(NamedTuple):
    """Microseconds of one call."""

    calls: int
    median_us: float
    p99_us: float

    def line(self) -> str:
        """Return the figures as a sentence."""
        return (
            f"hand-over to the shipping thread: median {self.median_us:.1f} us, 99th percentile "
            f"{self.p99_us:.0f} us, over {self.calls:,} records of {TENSORS} tensors"
        )


class _Answers(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Acknowledge a batch."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "deflate":
            body = zlib.decompress(body)
        batch = decode(body)
        answer = json.dumps({"source": batch.source.hex(), "seq": batch.seq, "stored": True})
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def handover(seconds: float = 5.0, pause_s: float = 0.002) -> HandOver:
    """Return the figures of about `seconds` of records, with a pause between two steps."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    took: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        shipper = Shipper(
            url=f"http://127.0.0.1:{server.server_port}",
            token="",
            run="handover",
            project="benchmark",
            spool_dir=Path(folder),
        )
        places = tuple(Place(f"{i}.weight") for i in range(TENSORS))
        for stream in STREAMS:
            shipper.put(Layout(stream, 0, STATISTICS[stream], places))
        values = {s: np.ones((1, TENSORS, len(STATISTICS[s])), np.float32) for s in STREAMS}
        started, step = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            steps, times = np.array([step], np.int64), np.array([time.time()])
            for stream in STREAMS:
                frame = Frame(stream, 0, steps, times, values[stream])
                before = time.perf_counter()
                shipper.put(frame)
                took.append(time.perf_counter() - before)
            step += 1
            time.sleep(pause_s)
        shipper.close(deadline_s=0.5)
    server.shutdown()
    us = np.array(took) * 1e6
    return HandOver(len(us), float(np.median(us)), float(np.percentile(us, 99)))


if __name__ == "__main__":
    print(handover().line())
