"""The process of one run: `python -m healthy.worker PROGRAM INDEX FILE`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from healthy.runner import run

if __name__ == "__main__":
    name, index, file = sys.argv[1:]
    Path(file).write_text(json.dumps(asdict(run(name, int(index)))))
