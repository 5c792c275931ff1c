"""The README's six lines run as they stand, and end with a verdict."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "six_lines.py"


def test_the_six_lines_end_with_a_verdict_on_stderr_and_leave_nothing_behind(tmp_path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TRAINVITALS_")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        cwd=tmp_path,
        env=kept | {"TRAINVITALS_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "healthy: nothing found in 200 steps" in done.stderr
    assert list(tmp_path.iterdir()) == []
