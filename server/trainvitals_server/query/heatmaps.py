"""Write a heat map as JSON to a temporary file, a few hundred places at a time.

Comes in: slices of curves. Goes out: a file with the JSON of `schema.Heatmap`.
Promise:  memory does not grow with the number of places: a map of 20,000 places × 400 columns has
          8 million numbers, which would take 256 MB as Python floats.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Final

import msgspec

from trainvitals_server.store.series import Curves

PLACES_AT_ONCE: Final = 512
_SPOOLED_BYTES: Final = 2**20
"""Larger files are on disk."""
_CHUNK_BYTES: Final = 64 * 1024


def write_heatmap(
    stream: str, statistic: str, places: Sequence[str], slices: Iterator[Curves]
) -> IO[bytes]:
    """Return a file, at its start, with the JSON of the map; `slices` covers `places` in order."""
    encode = msgspec.json.encode
    file = tempfile.SpooledTemporaryFile(_SPOOLED_BYTES)  # noqa: SIM115 - the caller closes it
    try:
        steps: list[int] = []
        head = {"stream": stream, "statistic": statistic, "places": list(places)}
        file.write(encode(head)[:-1] + b',"values":[')
        separator = b""
        for found in slices:
            steps = found.spans.first.tolist()
            for row in found.spans.mean.T:
                file.write(separator + encode(row.tolist()))
                separator = b","
        file.write(b'],"steps":' + encode(steps) + b"}")
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def sent(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the bytes of `file`, then close it."""
    with file:
        while part := file.read(_CHUNK_BYTES):
            yield part
