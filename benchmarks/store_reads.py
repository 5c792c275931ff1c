"""The cost of reading curves: time and bytes, as JSON and as Arrow streams.

    python benchmarks/store_reads.py [--database postgres] [--steps 1000000]

Stores a run of `--steps` steps × 200 tensors × 1 statistic and one of 1,000 steps × 200 tensors ×
24 statistics in a collector and reads them over HTTP: median and 95th percentile of READS reads on
one connection after two to warm up, the bytes of the answer, and the median time in which the
client of the API decodes it.

Prints one JSON object. Nothing else may run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import http.client
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import msgspec
import numpy as np

from trainvitals.api.arrow import ACCEPT, heatmap_of, latest_of, series_of
from trainvitals.api.schema import Heatmap, Latest, RunPage, Series
from trainvitals.ship.http import parse_url
from trainvitals.wire import Batch, Frame, Layout, Place, RunStart, Stat, Stream, encode
from trainvitals_server.store import Store

READS = 30
BASE = "/api/v1/runs/long"
STREAMS: dict[type[Any], Callable[[bytes], Any]] = {
    Series: series_of,
    Heatmap: heatmap_of,
    Latest: latest_of,
}


class Address(Protocol):
    """Where a collector is."""

    @property
    def url(self) -> str: ...

    @property
    def token(self) -> str: ...


def long_run(store: Store, steps: int) -> None:
    """Store a run of 200 tensors and one statistic in `store`, sealed as while it goes on."""
    from trainvitals_server.store.seal import Compactor

    places = tuple(Place(f"blocks.{i}.weight", depth=i) for i in range(200))
    layout = Layout(Stream.WEIGHT, 0, (Stat.L2,), places)
    rng = np.random.default_rng(0)
    level = np.ones(200)
    compactor = Compactor(store.database)
    for seq, at in enumerate(range(0, steps, 250)):
        walk = level + 1e-3 * np.cumsum(rng.standard_normal((250, 200)), axis=0)
        level = walk[-1]
        values = walk.astype(np.float32)[:, :, None]
        rows = np.arange(at, at + 250)
        head = [RunStart(0.0), layout] if seq == 0 else []
        frame = Frame(Stream.WEIGHT, 0, rows, 0.1 * rows, values)
        batch = Batch("long", "bench", b"long............", seq, 0.0, 0, (*head, frame))
        store.ingest(batch, encode(batch))
        if seq % 50 == 49:
            while compactor.run_once():
                pass


def wide_run(store: Store) -> None:
    """Store a run of 200 tensors and 24 statistics in `store`: 1,000 steps, sealed in part."""
    from trainvitals_server.store.seal import Compactor

    places = tuple(Place(f"blocks.{i}.weight", depth=i) for i in range(200))
    layout = Layout(Stream.WEIGHT, 0, tuple(Stat)[:24], places)
    rng = np.random.default_rng(0)
    compactor = Compactor(store.database)
    for seq, at in enumerate(range(0, 1000, 10)):
        rows = np.arange(at, at + 10)
        values = rng.standard_normal((10, 200, 24)).astype(np.float32)
        head = [RunStart(0.0), layout] if seq == 0 else []
        frame = Frame(Stream.WEIGHT, 0, rows, 0.1 * rows, values)
        batch = Batch("wide", "bench", b"wide............", seq, 0.0, 0, (*head, frame))
        store.ingest(batch, encode(batch))
    while compactor.run_once():
        pass


def reads(at: Address, steps: int) -> dict[str, dict[str, float]]:
    """Return time, bytes and time to decode of each kind of read in each form."""
    some = [("place", f"blocks.{i}.weight") for i in range(50)]
    drawn = [("value", name) for name in ("min", "mean", "max")]
    middle = steps // 2
    one = [("stream", "weight"), ("statistic", "l2")]
    buckets = [("points", 1000)]
    window = [("from_step", middle), ("to_step", middle + 2999)]
    series, heatmap = f"{BASE}/series", f"{BASE}/heatmap"
    kinds: dict[str, tuple[type[Any], str, list[tuple[str, Any]]]] = {
        "one series, 1,000 buckets": (Series, series, [*one, some[0], *buckets]),
        "50 series, 1,000 buckets": (Series, series, [*one, *some, *buckets]),
        "50 series, as drawn": (Series, series, [*one, *some, *buckets, *drawn]),
        "50 series, 3,000 steps in the middle": (Series, series, [*one, *some, *buckets, *window]),
        "200 layers x 500 buckets": (Heatmap, heatmap, [*one, ("columns", 500)]),
        "latest of all": (Latest, "/api/v1/runs/wide/latest", []),
        "run list": (RunPage, "/api/v1/runs", [("limit", 100)]),
    }
    found = {}
    for name, (kind, path, query) in kinds.items():
        target = f"{path}?{urlencode(query)}"
        found[f"{name}, JSON"] = timed(at, target, "application/json", json_decoder(kind))
        if kind in STREAMS:
            found[f"{name}, Arrow"] = timed(at, target, ACCEPT, STREAMS[kind])
    return found


def json_decoder(kind: type[Any]) -> Callable[[bytes], Any]:
    """Return a function that decodes JSON to `kind`."""
    return msgspec.json.Decoder(kind).decode


def timed(
    at: Address, target: str, accept: str, decode: Callable[[bytes], Any]
) -> dict[str, float]:
    """Return the figures of READS reads of a path."""
    address = parse_url(at.url)
    connection = http.client.HTTPConnection(address.host, address.port)
    headers = {"Authorization": f"Bearer {at.token}", "Accept": accept}
    times, decoding, body = [], [], b""
    for _ in range(READS + 2):
        began = time.perf_counter()
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        body = response.read()
        times.append(time.perf_counter() - began)
        if response.status != 200 or not accept.startswith(response.headers["Content-Type"]):
            raise RuntimeError(f"{target}: {response.status} {body[:200]!r}")
        began = time.perf_counter()
        decode(body)
        decoding.append(time.perf_counter() - began)
    p50, p95 = np.percentile(times[2:], [50, 95]) * 1e3
    return {
        "p50_ms": round(float(p50), 1),
        "p95_ms": round(float(p95), 1),
        "decode_ms": round(float(np.median(decoding[2:])) * 1e3, 1),
        "bytes": len(body),
    }


def main() -> None:
    """Measure and print."""
    from store import collector, database

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--steps", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with database(arguments.database) as (url, _), tempfile.TemporaryDirectory() as folder:
        store = Store.open(url or f"sqlite:///{Path(folder) / 'trainvitals.db'}")
        long_run(store, arguments.steps)
        wide_run(store)
        store.close()
        with collector(Path(folder), url) as at:
            print(json.dumps(reads(at, arguments.steps), indent=2))


if __name__ == "__main__":
    main()
