"""Draw the figures of the guides from real runs: `python docs/guides/figures.py [NAME ...]`.

Comes in: the numbers of the studies. Goes out: SVG files in docs/guides/images, which follow the
light or dark setting of the reader. The seeds are fixed; all figures take some minutes on one core.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from studies import biases, common, losses, weights
from torch import nn

from trainvitals.api.wording import number
from trainvitals.report.page_style import STYLE
from trainvitals.report.svg import HEIGHT, WIDTH, Line, plot

IMAGES = Path(__file__).parent / "images"
KEY_HEIGHT, TITLE_HEIGHT, GAP = 17, 24, 20
SHORT = 28
"""Characters of a text of the key, up to which two of them are side by side."""


class Panel(NamedTuple):
    """One plot with its title; the key below it has the name and a remark for each line."""

    title: str
    x_name: str
    lines: Sequence[Line]
    remarks: Sequence[str] = ()
    """A remark for each line, shown after its name."""
    may_be_log: bool = True

    @property
    def key(self) -> list[str]:
        """The text of each line in the key."""
        remarks = [*self.remarks, *[""] * (len(self.lines) - len(self.remarks))]
        return [
            f"{line.name}: {remark}" if remark else line.name
            for line, remark in zip(self.lines, remarks, strict=True)
        ]

    @property
    def columns(self) -> int:
        """The number of columns of the key."""
        return 2 if all(len(text) <= SHORT for text in self.key) else 1


def figure(panels: Sequence[Panel]) -> str:
    """Return the panels side by side as one SVG document with its own style sheet."""
    rows = max(-(-len(panel.lines) // panel.columns) for panel in panels)
    width = len(panels) * (WIDTH + GAP) + GAP
    height = TITLE_HEIGHT + HEIGHT + rows * KEY_HEIGHT + 2 * GAP
    label = escape("; ".join(panel.title for panel in panels))
    # The size is inline: the style sheet is that of a page, where an image fills its column.
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" '
        f'style="width:{width}px;height:{height}px" role="img" aria-label="{label}">',
        f"<style>{STYLE}.back{{fill:var(--back)}}</style>",
        f'<rect class="back" width="{width}" height="{height}"/>',
        *(_panel(panel, GAP + at * (WIDTH + GAP)) for at, panel in enumerate(panels)),
        "</svg>\n",
    ]
    return "".join(parts)


def _panel(panel: Panel, left: int) -> str:
    image = plot(panel.lines, title=panel.title, x_name=panel.x_name, may_be_log=panel.may_be_log)
    placed = image.replace(
        "<svg ",
        f'<svg x="{left}" y="{GAP + TITLE_HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'style="width:{WIDTH}px;height:{HEIGHT}px" ',
        1,
    )
    title = (
        f'<text x="{left}" y="{GAP + 12}" style="font-size:13px;font-weight:600">'
        f"{escape(panel.title)}</text>"
    )
    key = [_key(text, at, left, panel.columns) for at, text in enumerate(panel.key)]
    return title + placed + "".join(key)


def _key(text: str, at: int, left: int, columns: int) -> str:
    x = left + at % columns * (WIDTH // columns)
    y = GAP + TITLE_HEIGHT + HEIGHT + (at // columns + 1) * KEY_HEIGHT
    return (
        f'<path class="line c{at % 6}" style="stroke-width:3" d="M{x} {y - 4}h14"/>'
        f'<text x="{x + 20}" y="{y}">{escape(text)}</text>'
    )


def _depth(values: common.Floats) -> common.Floats:
    return np.arange(1.0, len(values) + 1)


def _span(values: common.Floats) -> str:
    """Return the first and the last value; a series that is not finite has overflowed float32."""
    if not np.isfinite(values).all():
        return f"{number(float(values[0]))} → overflow" if np.isfinite(values[0]) else "overflow"
    if not values.any():
        return "0 in every layer"
    return f"{number(float(values[0]))} → {number(float(values[-1]))}"


def weights_signal() -> str:
    """S of each linear layer of a ReLU stack under each initialiser."""
    return _relu_stack("S of the pre-activations", "S")


def weights_gradient() -> str:
    """The gradient of each linear layer of a ReLU stack under each initialiser."""
    return _relu_stack("RMS of the weight's gradient", "gradient_rms")


def _relu_stack(word: str, what: str) -> str:
    measured = {name: weights.propagated(name) for name in weights.INITIALISERS}
    return figure(
        [
            _values(f"{word}, scale by fan-in", measured, weights.FANS, what),
            _values(f"{word}, fixed scale", measured, weights.SCALES, what),
        ]
    )


def _values(
    title: str, measured: dict[str, weights.Propagation], names: Sequence[str], what: str
) -> Panel:
    values = [getattr(measured[name], what) for name in names]
    lines = [Line(name, _depth(v), v) for name, v in zip(names, values, strict=True)]
    return Panel(title, "layer", lines, [_span(v) for v in values])


def weights_tanh() -> str:
    """S and the gradient of a stack with tanh."""
    measured = {name: weights.propagated(name, nn.Tanh, weights.TANH) for name in weights.TANH}
    return figure(
        [
            _values("tanh: S of the pre-activations", measured, tuple(weights.TANH), "S"),
            _values("tanh: RMS of the gradient", measured, tuple(weights.TANH), "gradient_rms"),
        ]
    )


def weights_loss() -> str:
    """Held-out loss of a deep ReLU network on digits under each initialiser."""
    result = weights.initialisations()

    def panel(title: str, names: Sequence[str]) -> Panel:
        lines = [Line(name, *common.course(result, name)) for name in names]
        ends = [
            "diverged" if result.row(name).metric is None else number(result.row(name).metric)
            for name in names
        ]
        # A loss far above ln 10 would hide all others.
        shown = [Line(n, x, np.where(y < 5, y, np.nan)) for n, x, y in lines]
        return Panel(title, "step", shown, ends, may_be_log=False)

    return figure(
        [
            panel("Held-out loss, scale by fan-in", weights.FANS),
            panel("Held-out loss, fixed scale, and He", ("He", *weights.SCALES)),
        ]
    )


def biases_prior() -> str:
    """The loss and the bias of each class, with and without the class prior."""
    runs = {"default": biases.prior(known=False), "log prior": biases.prior(known=True)}
    plain = runs["default"]
    centred = plain.bias - plain.bias.mean(1, keepdims=True)
    return figure(
        [
            Panel(
                "Loss, mean of 10 steps",
                "step",
                [_smooth(name, run.losses) for name, run in runs.items()],
                [f"{number(float(run.losses[0]))} at step 0" for run in runs.values()],
                may_be_log=False,
            ),
            Panel(
                "Head's bias from the default start, less its mean",
                "step",
                [Line(f"class {k}", plain.steps, centred[:, k]) for k in range(3)],
                [f"{share:.0%} of the samples" for share in (0.90, 0.07, 0.03)],
                may_be_log=False,
            ),
        ]
    )


def _smooth(name: str, losses: common.Floats, size: int = 10) -> Line:
    means = losses[: len(losses) // size * size].reshape(-1, size).mean(1)
    return Line(name, np.arange(len(means)) * float(size), means)


def biases_drift() -> str:
    """Drift of the head's bias and the loss for targets with mean 50, by remedy."""
    runs = {name: biases.drift(name) for name in (*biases.REMEDIES, biases.HIDDEN)}
    return figure(
        [
            Panel(
                "Drift of the head's bias, in multiples of S",
                "step",
                [Line(name, run.steps, run.ratio) for name, run in runs.items()],
                [
                    f"{run.ratio[-1]:.1f}, bias {round(run.bias[-1, 0], 1) + 0.0:.1f}"
                    + (", TV701" if "TV701" in run.codes else "")
                    for run in runs.values()
                ],
                may_be_log=False,
            ),
            Panel(
                "Mean squared error, mean of 10 steps",
                "step",
                [_smooth(name, run.losses) for name, run in runs.items()],
                [f"{number(float(run.losses[-10:].mean()))} at the end" for run in runs.values()],
            ),
        ]
    )


def biases_penalty() -> str:
    """The bias of each unit after a training with an L1 or an L2 penalty."""
    found = {name: biases.penalised(name) for name in biases.PENALTIES}
    units = np.arange(1.0, len(biases.OFFSETS) + 1)
    first, second = (
        Panel(
            title,
            "unit",
            [Line(name, units[kept], values[kept]) for name, values in found.items()],
            [f"{values[kept][0]:.2f} at unit {units[kept][0]:.0f}" for values in found.values()],
            may_be_log=False,
        )
        for title, kept in (
            ("Bias of all units", slice(None)),
            ("Bias without unit 1", slice(1, None)),
        )
    )
    return figure([first, second])


def loss_outliers() -> str:
    """Error on clean targets when a tenth of the training targets is wrong."""
    result = common.examples.outliers()
    names = [row.choice for row in result.rows]
    return figure(
        [
            Panel(
                "Median absolute error on clean targets",
                "step",
                [Line(name, *common.course(result, name)) for name in names],
                [number(result.row(name).metric) for name in names],
            )
        ]
    )


def loss_speed() -> str:
    """Accuracy of BCE and of MSE through the sigmoid, with SGD."""
    result = common.examples.spam()
    names = [row.choice for row in result.rows]
    return figure(
        [
            Panel(
                "Held-out accuracy, SGD",
                "step",
                [Line(name, *common.course(result, name)) for name in names],
                [number(result.row(name).metric) for name in names],
                may_be_log=False,
            )
        ]
    )


def loss_calibration() -> str:
    """Reliability of two losses on digits, and of BCE with and without weights on rare ones."""
    by_loss = {name: losses.calibration(name) for name in losses.CLASS_LOSSES}
    by_weight = {
        "BCE": losses.rare(weighted=False),
        "BCE, pos_weight": losses.rare(weighted=True),
    }
    return figure(
        [
            _reliability("Digits: right answers, %, by confidence", by_loss, {}),
            _reliability(
                "5 % ones: share of ones, %, by probability",
                {name: found for name, (found, _) in by_weight.items()},
                {name: f", recall {recall:.2f}" for name, (_, recall) in by_weight.items()},
            ),
        ]
    )


def _reliability(title: str, found: dict[str, losses.Reliability], more: dict[str, str]) -> Panel:
    ideal = Line("calibrated", np.array([0.0, 100.0]), np.array([0.0, 100.0]))
    lines = [Line(name, 100 * r.predicted, 100 * r.happened) for name, r in found.items()]
    remarks = [
        f"ECE {r.error:.2f}, {r.accuracy:.1%} right{more.get(name, '')}"
        for name, r in found.items()
    ]
    return Panel(title, "%", [*lines, ideal], remarks, may_be_log=False)


def loss_pairings() -> str:
    """Accuracy of digits by pairing, and predictions of a regression with broadcast targets."""
    result = losses.pairings()
    names = [row.choice for row in result.rows]
    shapes = {
        "targets (n, 1)": losses.broadcast(mismatched=False),
        "targets (n,): broadcast": losses.broadcast(mismatched=True),
    }
    return figure(
        [
            Panel(
                "Digits: held-out accuracy",
                "step",
                [Line(name, *common.course(result, name)) for name in names],
                [number(result.row(name).metric) for name in names],
                may_be_log=False,
            ),
            Panel(
                "Regression: prediction by target",
                "target",
                [Line(name, found.target, found.predicted) for name, found in shapes.items()],
                [f"error {found.error:.2f}" for found in shapes.values()],
                may_be_log=False,
            ),
        ]
    )


FIGURES: tuple[Callable[[], str], ...] = (
    weights_signal,
    weights_gradient,
    weights_tanh,
    weights_loss,
    biases_prior,
    biases_drift,
    biases_penalty,
    loss_outliers,
    loss_speed,
    loss_calibration,
    loss_pairings,
)


def main() -> None:
    """Write the figures that are named on the command line; without a name, all."""
    torch.set_num_threads(1)
    names = sys.argv[1:] or [draw.__name__ for draw in FIGURES]
    unknown = set(names) - {draw.__name__ for draw in FIGURES}
    if unknown:
        sys.exit(f"There is no figure {', '.join(sorted(unknown))}.")
    IMAGES.mkdir(exist_ok=True)
    for draw in FIGURES:
        if draw.__name__ in names:
            path = IMAGES / f"{draw.__name__.replace('_', '-')}.svg"
            path.write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
