"""The programs of torchtitan's and torchtune's pages in two ranks: resumed, watched and spoiled."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.watching import own_home  # noqa: F401 - a fixture

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.timeout(300),
    pytest.mark.slow,  # a minute and a half: two processes for each training
]

PAGES = Path(__file__).parents[3] / "docs" / "frameworks"
TITAN, TUNE = (
    re.search(r"```python\n(.*?)```", (PAGES / f"{name}.md").read_text(), re.DOTALL)[1]
    for name in ("torchtitan", "torchtune")
)
END = "dist.destroy_process_group()\n"
DUMP = """
import json
from pathlib import Path
history = None if monitor is None else monitor._diagnosis.history
found = {
    "weights": [p.to_local().flatten().tolist() for p in model.parameters()],
    "steps": [] if history is None else history.scalar("loss").steps.tolist(),
    "verdict": "" if monitor is None else str(monitor.diagnosis().verdict),
    "findings": [] if monitor is None else [f.rule for f in monitor.diagnosis().findings],
}
Path(f"found-{dist.get_rank()}.json").write_text(json.dumps(found))
"""


def changed(program, *pairs):
    """Return a program with replacements; each has to occur."""
    for old, new in pairs:
        assert old in program, old
        program = program.replace(old, new)
    return program


def unwatched(program):
    """Return a program without its monitor."""
    lines = [line for line in program.splitlines() if not line.strip().startswith("monitor.")]
    text = "\n".join(lines) + "\n"
    return re.sub(r"monitor = trainvitals\.watch\(.*\)", "monitor = None", text)


def ran(program, folder, **variables):
    """Run a program in two ranks; return what each has found, and what each has printed."""
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(changed(program, (END, DUMP + END)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    logs = folder / f"logs{len(list(folder.glob('logs*')))}"
    done = subprocess.run(
        [*command, "--nproc-per-node", "2", "--redirects", "3", "--log-dir", logs, "train.py"],
        env=os.environ | {"TRAINVITALS_COLLECTOR": "off", "TRAINVITALS_REPORT": "card"} | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, [path.read_text()[-2000:] for path in logs.rglob("stderr.log")]
    found = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]
    cards = [
        "".join(path.read_text() for path in sorted(logs.rglob(f"{rank}/std*.log")))
        for rank in range(2)
    ]
    return found, *cards


def weights(found):
    return [rank["weights"] for rank in found]


def test_a_resumed_training_has_the_weights_and_the_steps_of_an_uninterrupted_one(tmp_path):
    first, *_ = ran(TITAN, tmp_path / "resumed", STEPS="100")
    second, *_ = ran(TITAN, tmp_path / "resumed", STEPS="200")
    whole, card, silent = ran(TITAN, tmp_path / "whole")
    assert weights(second) == weights(whole) != weights(first)
    assert second[0]["steps"] == list(range(100, 200))
    assert first[0]["steps"] + second[0]["steps"] == whole[0]["steps"]
    assert {rank["verdict"] for rank in whole} == {"healthy"}
    assert [rank["findings"] for rank in (*first, *second, *whole)] == [[]] * 6
    assert "healthy: nothing found in 200 steps" in card
    assert not re.search(r"TV\d", card)
    assert "trainvitals" not in silent


@pytest.mark.parametrize("program", [TITAN, TUNE], ids=["torchtitan", "torchtune"])
def test_the_training_is_bit_identical_without_the_monitor(tmp_path, program):
    watched, *_ = ran(program, tmp_path / "watched")
    plain, *_ = ran(unwatched(program), tmp_path / "plain")
    assert weights(watched) == weights(plain)
    assert {rank["verdict"] for rank in watched} == {"healthy"}
    assert plain[0]["steps"] == []


FAULTS = {
    "torchtitan: learning rate": (
        TITAN, ("1.0, 3e-3, 12", "1.0, 3.0, 12"), "TV601 learning_rate_too_high"
    ),
    "torchtitan: all labels masked": (
        TITAN, (", tokens[:, 1:]", ", torch.full_like(tokens[:, 1:], -100)"), "TV407 no_supervision"
    ),
    "torchtune: learning rate": (
        TUNE, ("1.0, 1e-2, 32", "1.0, 30.0, 32"), "TV601 learning_rate_too_high"
    ),
    "torchtune: all labels masked": (
        TUNE, ("randint(1, 6,", "randint(12, 13,"), "TV901 non_finite_value"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_in_each_rank_and_named_by_the_card_of_rank_0(tmp_path, fault):
    program, change, named = FAULTS[fault]
    found, card, silent = ran(changed(program, change), tmp_path / "run", STEPS="60")
    assert re.search(r"── trainvitals .*\n✗ ERROR +(TV\d+ \w+)", card)[1] == named
    assert "── trainvitals" not in silent
    assert {rank["verdict"] for rank in found} == {"error"}
