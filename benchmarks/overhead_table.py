"""The rows of the overhead benchmark: as text for the terminal, as figures for JSON.

Comes in: the rounds of one setting. Goes out: means with intervals; nothing is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from overhead_blocks import Interval, Round, interval

ACCOUNT_START_S = 0.25
ACCOUNT_SHARE = 0.02
"""The limit of the default: 0.25 s and 2 % of the time since the start of the watch."""

HEADER = (
    f"{'':2} {'setting':50} {'step ms':>8} {'time ratio':>14} {'CPU ratio':>14} "
    f"{'thread CPU':>14} {'backgr. ms':>10} {'own':>7} {'rounds':>7}"
)


@dataclass(frozen=True)
class Row:
    """One setting of one model; `account`: whether the cost is compared with the account."""

    model: str
    setting: str
    rounds: Sequence[Round]
    account: bool = False

    def ratio(self, clock: str) -> Interval:
        """Return the mean ratio of a watched to a plain step on `clock`."""
        return interval([r.ratio(clock) for r in self.rounds])

    def plain_s(self, clock: str) -> float:
        """Return the mean seconds of a plain step on `clock`."""
        return interval([r.plain.per_step(clock) for r in self.rounds]).mean

    @property
    def background_s(self) -> Interval:
        """CPU seconds of other threads per watched step, less those of a plain step."""
        return interval([r.watched.background_s - r.plain.background_s for r in self.rounds])

    @property
    def share(self) -> float:
        """The cost that the monitor reports: its CPU time over the step time, since its start."""
        return interval([r.share for r in self.rounds if r.share is not None]).mean

    @property
    def allowed_s(self) -> float:
        """The account at the end of the block, from the watched seconds since the start."""
        elapsed_s = interval([r.cost.wall for r in self.rounds]).mean
        return ACCOUNT_START_S + ACCOUNT_SHARE * elapsed_s

    def excess_s(self, clock: str) -> Interval:
        """Return the seconds on `clock` that the watch added from its start to the block's end."""
        return interval([r.excess_s(clock) for r in self.rounds])

    def line(self) -> str:
        """Return the row of the printed table."""
        own = "–" if math.isnan(self.share) else f"{self.share:.1%}"
        return (
            f"{self.model:2} {self.setting:50} {1e3 * self.plain_s('wall'):8.1f} "
            f"{_ratio(self.ratio('wall')):>14} {_ratio(self.ratio('process')):>14} "
            f"{_ratio(self.ratio('thread')):>14} {1e3 * self.background_s.mean:10.2f} "
            f"{own:>7} {len(self.rounds):>7}"
        )

    def figures(self) -> dict[str, Any]:
        """Return the figures of the row, with half widths of the 95 % intervals."""
        figures: dict[str, Any] = {
            "model": self.model,
            "setting": self.setting,
            "rounds": len(self.rounds),
            "watched_steps": sum(r.watched.steps for r in self.rounds),
            "plain_step_s": self.plain_s("wall"),
            "background_cpu_s": self.background_s.mean,
            "own_share": self.share,
        }
        for clock in ("wall", "process", "thread"):
            ratio = self.ratio(clock)
            figures[f"{clock}_ratio"], figures[f"{clock}_ratio_half"] = ratio.mean, ratio.half
        if self.account:
            figures["allowed_s"] = self.allowed_s
            for clock in ("wall", "process"):
                excess = self.excess_s(clock)
                figures[f"{clock}_excess_s"] = excess.mean
                figures[f"{clock}_excess_s_half"] = excess.half
        return figures


@dataclass(frozen=True)
class Floor:
    """The cost of one read of all weights and gradients, and that of the capture relative to it."""

    model: str
    read_once_s: float
    share_of_step: float
    capture_s: float
    multiple: float

    @classmethod
    def of(cls, model: str, rows: Sequence[Row], setting: str, read_once_s: float) -> Self:
        """Compare `read_once_s` with the CPU time that `setting` adds to a step."""
        [row] = [row for row in rows if row.setting == setting]
        step_s = row.plain_s("process")
        capture_s = (row.ratio("process").mean - 1) * step_s
        return cls(model, read_once_s, read_once_s / step_s, capture_s, capture_s / read_once_s)

    def line(self) -> str:
        """Return the line about the floor."""
        return (
            f"{self.model:2} the floor, one read of weights and gradients: "
            f"{1e3 * self.read_once_s:.3f} ms, {self.share_of_step:.2%} of a step; weights and "
            f"gradients in every step cost {1e3 * self.capture_s:.2f} ms, "
            f"{self.multiple:.1f} times the floor"
        )


def accounts(rows: Sequence[Row]) -> str:
    """Return the lines that compare the default with the account."""
    lines = [
        f"The account: {ACCOUNT_START_S} s + {ACCOUNT_SHARE:.0%} of the watched time, in CPU s"
    ]
    for row in rows:
        if not row.account:
            continue
        excess = row.excess_s("process")
        over = excess.mean - row.allowed_s
        lines.append(
            f"{row.model:2} {row.setting}: cost {excess.mean:.2f} ±{excess.half:.2f} CPU s, "
            f"allowed {row.allowed_s:.2f} s: "
            f"{'over' if over > 0 else 'within'} by {abs(over):.2f} s"
        )
    return "\n".join(lines)


def once(figures: dict[str, float]) -> str:
    """Return the line about import and `watch`."""
    parts = [
        f"import trainvitals: {figures['import_ms']:.0f} ms beyond an empty interpreter; from "
        f"trainvitals import watch: {figures['import_watch_ms']:.0f} ms beyond numpy"
    ]
    for name, value in figures.items():
        if name.startswith("watch_ms_"):
            tensors = int(name.split("_")[2])
            parts.append(f"watch() on {tensors:,} tensors {value:.1f} ms")
    return "; ".join(parts)


def finite(value: Any) -> Any:
    """Return `value` with None for every NaN in it."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ratio(value: Interval) -> str:
    half = "?" if math.isnan(value.half) else f"{value.half:.3f}"
    return f"{value.mean:.3f} ±{half}"
