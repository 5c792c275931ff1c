"""What a monitor writes on stderr: the run's address, the training's status, the end report.

Comes in: `Status` from the diagnosis thread; the diagnosis at the end.
Goes out: text on `sys.stderr`; nothing with `report=off`.
Promise:  during the training only the diagnosis thread writes, and only on a terminal.
Start at `Screen.show`.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from trainvitals.api.schema import Diagnosis
    from trainvitals.diagnosis.history import History
    from trainvitals.report.status import Status

log = logging.getLogger("trainvitals")

ERASE = "\r\x1b[2K"
"""Move to the start of the terminal's line and erase it (ECMA-48: EL 2)."""


class Screen:
    """The terminal of one run. `report` is the setting: auto, card, line, live or off.

    `live` rewrites one line. The other modes print a line when the verdict changes, because a
    rewritten line would mix with the program's own output
    (docs/decisions/0011-a-status-line-when-the-verdict-changes.md).
    """

    def __init__(self, report: str, *, is_first_rank: bool = True) -> None:
        self._report = report
        self._talks = report != "off" and is_first_rank
        self._shown: tuple[str, str] | None = None
        self._is_drawn = False
        self._name = ""
        self._url: str | None = None

    def started(self, name: str, url: str | None) -> None:
        """Remember the run's name and address; print the address, if a collector is set."""
        self._name, self._url = name, url
        if self._talks and url and (stream := sys.stderr) is not None:
            from trainvitals.report.text import clean

            _print(stream, f"trainvitals: run {clean(name)}: {clean(url)}")

    def show(self, status: Status) -> None:
        """Show the status. Called in the diagnosis thread, at most every 0.5 s."""
        stream = sys.stderr
        if not self._talks or not _is_terminal(stream):
            return
        from trainvitals.report.status import status_line

        width = shutil.get_terminal_size((80, 24)).columns - 1
        if self._report == "live":
            stream.write(f"{ERASE}{status_line(status, width)}")
            stream.flush()
            self._is_drawn = True
        elif self._is_new(status.key):
            _print(stream, status_line(status, width))

    def clear(self) -> None:
        """Erase the live line, so that other text can follow."""
        if self._is_drawn and _is_terminal(sys.stderr):
            sys.stderr.write(ERASE)
            sys.stderr.flush()
        self._is_drawn = False

    def ended(self, diagnosis: Diagnosis, history: History, logged: Collection[str] = ()) -> None:
        """Print the end report: a card on a terminal, otherwise one line.

        Ranks after the first print it only if they failed: the others would repeat the report.
        `logged` contains the findings that were logged, as `finding_line` formats them; outside of
        a terminal the line does not repeat their text.
        """
        stream = sys.stderr
        is_wanted = self._talks or diagnosis.verdict == "failed"
        if self._report == "off" or not is_wanted or stream is None:
            return
        from trainvitals.report import card, line
        from trainvitals.report.curves import curves_of
        from trainvitals.report.line import finding_line

        self.clear()
        terminal = _is_terminal(stream)
        if self._report == "line" or (self._report in ("auto", "live") and not terminal):
            headline = diagnosis.headline
            is_repeated = not terminal and headline and finding_line(headline) in logged
            details = self._where_details_are() if is_repeated else ""
            shown = line(diagnosis, name=self._name, details=details)
        else:
            colour = terminal and "NO_COLOR" not in os.environ
            curves = curves_of(history, diagnosis)
            shown = card(diagnosis, colour=colour, curves=curves, name=self._name)
        stream.write(f"{shown.rstrip()}\n")

    def _where_details_are(self) -> str:
        if self._url:
            return f"Logged when it opened; full diagnosis: {self._url}"
        return "Logged when it opened; TRAINVITALS_REPORT=card prints the full diagnosis."

    def _is_new(self, key: tuple[str, str]) -> bool:
        """Return whether the verdict changed; "too early" at the start is no change."""
        before, self._shown = self._shown, key
        return key != before and (before is not None or key[0] != "too_early")


def write_page(path: str, diagnosis: Diagnosis, history: History, name: str) -> None:
    """Write the HTML report of a run; log a warning if the file cannot be written."""
    from trainvitals.report import as_html
    from trainvitals.report.curves import page_curves
    from trainvitals.report.page_file import written

    try:
        written(as_html(diagnosis, page_curves(history, diagnosis), name=name), path, diagnosis.run)
    except OSError as error:
        log.warning("The HTML report is not written: %s.", error)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _print(stream: TextIO, text: str) -> None:
    """Print a line; progress bars of tqdm are moved below it."""
    bars = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    if bars is not None and getattr(bars, "_instances", None):
        bars.write(text, file=stream)
        return
    stream.write(f"{text}\n")
    stream.flush()
