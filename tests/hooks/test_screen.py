"""On a terminal a training shows its status, and never in the way of the program's own output."""

import contextlib
import logging
import os
import pty
import re
import sys
import threading
from itertools import pairwise

import torch
from msgspec.structs import replace

import trainvitals
from helpers.warm_python import run_warm
from helpers.watching import network, own_home, train, watched  # noqa: F401 - own_home is a fixture
from trainvitals.api.schema import Diagnosis, Finding, Severity, Verdict
from trainvitals.diagnosis.history import History
from trainvitals.report import line
from trainvitals.report.line import finding_line
from trainvitals.report.status import Status, status_line
from trainvitals.screen import ERASE, Screen

TRAINING = """
import sys, time, torch, trainvitals
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr={lr})
monitor = trainvitals.watch(model, optimizer, collector="off")
x = torch.randn(64, 8)
started, step = time.monotonic(), 0
while time.monotonic() - started < {seconds}:
    loss = nn.functional.cross_entropy(model(x), x[:, :3].argmax(1))
    optimizer.zero_grad()
    monitor.loss(loss).backward()
    optimizer.step()
    step += 1
    if step % 50 == 0:
        print(f"own output {{step}}", flush=True)
    time.sleep(0.002)
print("before the end", flush=True)
monitor.close()
"""


def on_a_terminal(tmp_path, *, lr=0.1, seconds=1.6, **environment) -> str:
    """Return what the training writes when stdout and stderr are one terminal of 100 columns."""
    main, follower = pty.openpty()
    environment = {
        "TRAINVITALS_HOME": str(tmp_path),
        "TRAINVITALS_REPORT": "auto",
        "COLUMNS": "100",
        **environment,
    }
    written = bytearray()
    reader = threading.Thread(target=read_to, args=(main, written))
    reader.start()
    done = run_warm(
        TRAINING.format(lr=lr, seconds=seconds),
        cwd=tmp_path,
        env={**os.environ, **environment},
        terminal=os.ttyname(follower),
    )
    os.close(follower)
    reader.join(10)
    os.close(main)
    assert done.returncode == 0, written.decode()
    return written.decode()


def read_to(terminal: int, written: bytearray) -> None:
    """Read all of a terminal's output, until its last writer has closed it."""
    with contextlib.suppress(OSError):  # Linux: EIO when the last writer has closed
        while chunk := os.read(terminal, 65536):
            written += chunk


def finding(code="TV201"):
    return Finding(
        rule="dead_relu", code=code, severity=Severity.WARNING, where="1", since_step=3, summary="x"
    )


def status(*, code="TV201", step=100):
    found = finding(code)
    return Status(
        step,
        Diagnosis(step=step, verdict=Verdict.WARNING, headline=found, findings=(found,)),
        loss=0.25,
        step_rate=40.0,
        overhead=0.012,
    )


def test_the_line_has_step_loss_rate_own_cost_and_the_headline():
    assert status_line(status()) == (
        "trainvitals: step 100 · loss 0.25 · 40 steps/s · own cost 1.2 % · "
        "warning: TV201 dead_relu at 1"
    )


def test_the_line_is_cut_at_the_width_of_the_terminal():
    assert status_line(status(), 40) == "trainvitals: step 100 · loss 0.25 · 40 …"


def test_a_verdict_that_changes_is_a_line_of_its_own_and_a_finding_is_logged_once(tmp_path):
    lines = on_a_terminal(tmp_path, lr=1e4, seconds=3).split("\r\n")
    shown = [line for line in lines if line.startswith("trainvitals: step")]
    assert len(shown) >= 1
    assert re.search(r"step [\d,]+ · loss .+ · (error|warning): TV\d+ \w+", shown[0])
    verdicts = [line.rpartition(" · ")[2] for line in shown]
    assert all(a != b for a, b in pairwise(verdicts))
    logged = [re.match(r"TV\d+ \S+( at \S+)?", line) for line in lines]
    keys = [match[0] for match in logged if match]
    assert keys
    assert len(keys) == len(set(keys))


def test_the_programs_own_lines_stay_whole(tmp_path):
    lines = on_a_terminal(tmp_path, lr=1e4, seconds=3).split("\r\n")
    own = [line for line in lines if "own output" in line]
    assert own
    assert [line for line in own if not re.fullmatch(r"own output \d+", line)] == []


def test_live_rewrites_one_line_and_erases_it_before_the_card(tmp_path):
    written = on_a_terminal(tmp_path, seconds=2.2, TRAINVITALS_REPORT="live")
    drawn = re.findall(re.escape(ERASE) + r"trainvitals: step [\d,]+ · loss [\d.]+", written)
    assert 2 <= len(drawn) <= 5  # every 0.5 s of 2.2 s
    assert f"{ERASE}\x1b" in written or f"{ERASE}──" in written


def test_off_writes_nothing(tmp_path):
    written = on_a_terminal(tmp_path, seconds=1.1, TRAINVITALS_REPORT="off")
    assert "trainvitals" not in written


def test_without_a_terminal_no_status_is_written(capsys):
    screen = Screen("live")
    screen.show(status())
    screen.clear()
    assert capsys.readouterr().err == ""


class Terminal:
    """A stream that claims to be a terminal."""

    def __init__(self):
        self.written, self.writers = "", set()

    def isatty(self):
        return True

    def write(self, text):
        self.written += text
        self.writers.add(threading.current_thread().name)

    def flush(self):
        pass


def test_the_same_verdict_is_shown_once_and_too_early_at_the_start_is_not(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    screen = Screen("auto")
    screen.show(Status(1, Diagnosis(step=1)))
    assert terminal.written == ""
    for step in (10, 20):
        screen.show(status(step=step))
    screen.show(status(code="TV901", step=30))
    assert [line.split(" · ")[0] for line in terminal.written.splitlines()] == [
        "trainvitals: step 10",
        "trainvitals: step 30",
    ]


def test_only_the_diagnosis_thread_writes_during_the_training(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TRAINVITALS_REPORT", "live")
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = trainvitals.watch(model, optimizer, collector="off")
    train(model, optimizer, monitor, steps=5)
    drawn = threading.Event()
    monkeypatch.setattr(terminal, "flush", drawn.set)
    assert drawn.wait(10)
    assert terminal.writers == {"trainvitals-diagnosis"}
    monitor.close()


def test_a_second_rank_writes_no_status(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    screen = Screen("auto", is_first_rank=False)
    screen.started("r", "http://127.0.0.1:8321/run?run=r")
    screen.show(status())
    assert terminal.written == ""


def test_a_second_rank_reports_at_the_end_only_that_it_failed(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    screen = Screen("card", is_first_rank=False)
    screen.ended(Diagnosis(verdict=Verdict.ERROR, step=9), History())
    assert terminal.written == ""
    screen.ended(Diagnosis(verdict=Verdict.FAILED, error="ValueError: x", step=9), History())
    assert "ValueError: x" in terminal.written


def test_the_address_of_the_run_is_printed_once_at_the_start(capsys, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_REPORT", "line")
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = trainvitals.watch(model, optimizer, run="mine", collector="http://127.0.0.1:9")
    assert capsys.readouterr().err == ("trainvitals: run mine: http://127.0.0.1:9/run?run=mine\n")
    monitor._abandon()


def test_a_progress_bar_of_tqdm_stays_below_the_line(monkeypatch):
    class Bar:
        _instances = frozenset({"a bar"})
        moved: list[str] = []  # noqa: RUF012 - one test

        @classmethod
        def write(cls, text, file):
            cls.moved.append(text)
            file.write(f"{text}\n")

    class Module:
        tqdm = Bar

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(sys.modules, "tqdm.std", Module)
    Screen("auto").show(status())
    assert len(Bar.moved) == 1


def test_the_end_report_is_also_a_page_where_the_setting_names_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_REPORT_HTML", f"{tmp_path}/pages/")
    monitor = watched(run="mine")
    monitor.close()
    page = (tmp_path / "pages" / "mine.html").read_text()
    assert "<b>Loss</b>" in page
    assert "healthy" in page or "Too early" in page


def test_a_page_that_cannot_be_written_is_one_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRAINVITALS_REPORT_HTML", f"{tmp_path}/file/page.html")
    watched().close()
    assert "The HTML report is not written" in caplog.text


def test_the_end_report_shows_the_generated_name_and_not_the_id(capsys, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_REPORT", "line")
    monitor = watched()
    monitor.close()
    shown = capsys.readouterr().err
    assert f"run {monitor._name}: " in shown
    assert monitor.run not in shown


def test_without_a_terminal_the_text_of_a_finding_is_written_once(capsys, caplog, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_REPORT", "auto")
    monitor = watched(steps=30, lr=1e12)
    monitor.close()
    headline = monitor.diagnosis().headline
    end = capsys.readouterr().err.splitlines()[-1]
    logged = [r.getMessage() for r in caplog.records if headline.summary in r.getMessage()]
    assert len(logged) == 1
    assert f"{headline.code} {headline.rule}" in end
    assert headline.summary not in end
    assert end.endswith("TRAINVITALS_REPORT=card prints the full diagnosis.")


def test_a_text_that_changed_after_it_was_logged_is_in_the_last_line(capsys):
    diagnosis = status().diagnosis
    Screen("auto").ended(diagnosis, History(), {finding_line(replace(finding(), summary="y"))})
    assert capsys.readouterr().err == f"{line(diagnosis)}\n"


def test_a_finding_that_was_not_logged_is_in_the_last_line(capsys, caplog, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_REPORT", "auto")
    caplog.set_level(logging.CRITICAL, "trainvitals")
    monitor = watched(steps=30, lr=1e12)
    monitor.close()
    assert monitor.diagnosis().headline.summary in capsys.readouterr().err


def test_the_last_line_names_the_address_of_the_full_diagnosis(capsys):
    screen = Screen("auto")
    screen.started("mine", "http://127.0.0.1:9/run?run=mine")
    screen.ended(status().diagnosis, History(), {finding_line(finding())})
    assert capsys.readouterr().err.endswith("full diagnosis: http://127.0.0.1:9/run?run=mine\n")


def test_a_terminal_gets_the_text_of_the_finding_in_the_end_report(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    diagnosis = status().diagnosis
    Screen("line").ended(diagnosis, History(), {finding_line(finding())})
    assert terminal.written == f"{line(diagnosis)}\n"


def test_a_finding_that_another_rank_logs_begins_with_its_rank(monkeypatch, caplog):
    monkeypatch.setenv("RANK", "1")
    watched(steps=30, lr=1e12).close()
    said = [r.getMessage() for r in caplog.records if "since step" in r.getMessage()]
    assert said
    assert all(re.match("rank 1: TV[0-9]{3} ", text) for text in said)
