"""Recognise the likelihood of a normal distribution in a graph, however it is written.

Comes in: a node that adds or subtracts. Goes out: a `Criterion`, if it joins a squared error over a
          variance and the logarithm of that variance.
Promise:  nothing is computed. Both terms must come from the same values of the graph; with signs
          for which the loss has no minimum, the criterion only names them.
Start at `normal`. It knows, with any constant factors, and with both terms reduced one by one:

    F.gaussian_nll_loss(mean, target, variance)
    0.5 * (log_variance + (target - mean) ** 2 * exp(-log_variance))
    -torch.distributions.Normal(mean, deviation).log_prob(target)
    0.5 * ((target - mean) / deviation) ** 2 + log(deviation)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from torch import Tensor

from trainvitals.capture.graph_nodes import KEEP, operation, saved
from trainvitals.capture.loss_criterion import Criterion, Normal
from trainvitals.capture.loss_scale import factor, factors_of_inputs
from trainvitals.capture.loss_views import broadcasts_difference

WRONG_SIGN: Final = "logarithm_of_variance_subtracted"
NODES_MAX: Final = 32
"""Maximum number of nodes between a likelihood and the values of its variance."""
PAIRS_MIN: Final = 3
PAIRS_MAX: Final = 128
"""Maximum number of targets whose pairs are read."""
ROUNDING: Final = 1e-5
_FACTORS: Final = frozenset((*KEEP, "Mean", "Sum", "Neg", "Mul", "Div"))
"""Operations that multiply their only trained input by a constant."""
_LIMITS: Final = ("Clamp", "ClampMin", "ClampMax")
_POWERS: Final = {"Sqrt": 0.5, "Rsqrt": -0.5, "Reciprocal": -1.0}
_PARTS: Final = ("Slice", "Select", "Split", "SplitWithSizes", "Unbind")
_WHICH: Final = ("dim", "start", "end", "step", "index")
"""What tells the part of its input that such a view shows, besides the number of its output."""


class _Edge(NamedTuple):
    """The values that a node returned as its output of this number."""

    node: Any
    output: int


class _Quotient(NamedTuple):
    """values / spread ** power."""

    edge: _Edge
    """Of `values`."""
    values: Tensor | None
    edge_of_spread: _Edge
    spread: Tensor | None
    power: float


class _Square(NamedTuple):
    """coefficient · error² / spread ** power."""

    coefficient: float
    error: Tensor
    difference: Any
    """The node that subtracts the targets or the means."""
    edge: _Edge
    """Of `spread`."""
    spread: Tensor
    power: float


class _Source(NamedTuple):
    """Values of the graph, and a part of them."""

    edge: _Edge
    parts: tuple[object, ...]
    is_logarithm: bool
    """Whether their logarithm is meant, not the values themselves."""


def normal(node: Any, masks: tuple[Tensor, ...], reduction: str) -> Criterion | None:
    """Return a · error² / v + b · ln v as a criterion; None for anything else.

    The likelihood of one element is ½ · (error² / variance + ln variance), so its scale is 2b, and
    the variance is v · b / a.
    """
    if len(node.next_functions) != 2 or _only_input(node) is not None:
        return None
    edges, signs = [_Edge(*e) for e in node.next_functions], factors_of_inputs(node)
    for i in (0, 1):
        square = _square(edges[i], signs[i])
        if square is None:
            continue
        b = _coefficient_of_logarithm(edges[1 - i], signs[1 - i], square)
        factor_of_variance = b / square.coefficient if square.coefficient else math.nan
        if -math.inf < factor_of_variance < 0:
            return Criterion("GaussianNLLLoss", scale=math.nan, wiring=(WRONG_SIGN,))
        if not 0 < factor_of_variance < math.inf:
            continue
        side = 0 if square.difference.next_functions[0][0] is not None else 1
        broadcast = broadcasts_difference(square.difference, side)
        return Criterion(
            "GaussianNLLLoss",
            reduction or "none",
            masks=masks,
            scale=2 * b,
            normal=Normal(square.error, side == 1, square.spread, square.power, factor_of_variance),
            wiring=("prediction_and_target_broadcast",) if broadcast else (),
        )
    return None


def compares_all_pairs(normal: Normal, target: object) -> bool:
    """Whether the errors are those of each of n means from each of n targets: CPU only.

    Then each row of the n × n errors differs from the next by one number. Several samples of a mean
    for each target, as many as targets, differ by a number for each sample.
    """
    if not isinstance(target, Tensor):
        return False
    n, error = target.numel(), normal.error.detach()
    if target.dim() == 0 or len(target) != n or not PAIRS_MIN <= n <= PAIRS_MAX:
        return False
    if error.numel() != n * n or not error.is_cpu:
        return False
    error = error.reshape(n, n).double()
    rest = error - error[:1] - error[:, :1] + error[0, 0]
    varies = (error[1:] != error[:-1]).any() & (error[:, 1:] != error[:, :-1]).any()
    return bool(varies & (rest.abs().amax() <= ROUNDING * error.abs().amax()))


def _square(edge: _Edge, sign: float) -> _Square | None:
    """Return a squared error over a variance, each times any constants."""
    (node, _), coefficient = _without_factors(edge, sign)
    if _is_square(node):  # (error / deviation)²
        for q in _quotients(node.next_functions[0][0]):
            if _is_error(q.edge.node) and q.values is not None and q.spread is not None:
                return _Square(
                    *(coefficient, q.values, q.edge.node),
                    *(q.edge_of_spread, q.spread, 2 * q.power),
                )
        return None
    for q in _quotients(node):
        (squared, _), product = _without_factors(q.edge, coefficient)
        if not _is_square(squared) or q.spread is None:
            continue
        error, difference = saved(squared, "self"), squared.next_functions[0][0]
        if _is_error(difference) and error is not None:
            return _Square(product, error, difference, q.edge_of_spread, q.spread, q.power)
    return None


def _quotients(node: Any) -> Iterator[_Quotient]:
    """Yield each way to read a product or a quotient of two trained values as a quotient."""
    name = operation(node)
    if name not in ("Mul", "Div") or _only_input(node) is not None:
        return
    left, right = (_Edge(*e) for e in node.next_functions)
    values, other = saved(node, "self"), saved(node, "other")
    if name == "Div":
        yield _Quotient(left, values, right, other, 1.0)
    else:
        yield _Quotient(left, values, right, other, -1.0)
        yield _Quotient(right, other, left, values, -1.0)


def _coefficient_of_logarithm(edge: _Edge, sign: float, square: _Square) -> float:
    """Return b if the values of an edge are b · ln(spread ** power) plus a constant; NaN if not."""
    known = dict(_sources(edge, sign, is_logarithm=False))
    for source, exponent in _sources(square.edge, square.power, is_logarithm=True):
        if source in known and exponent:
            return known[source] / exponent
    return math.nan


def _sources(
    edge: _Edge, exponent: float, *, is_logarithm: bool
) -> Iterator[tuple[_Source, float]]:
    """Yield (s, e) such that the values, or their logarithm, are e · s plus a constant."""
    parts: tuple[object, ...] = ()
    for _ in range(NODES_MAX):
        yield _Source(edge, parts, is_logarithm), exponent
        node, name, below = edge.node, operation(edge.node), _only_input(edge.node)
        if is_logarithm and name == "Mul" and len(set(node.next_functions)) == 1:
            exponent, below = 2 * exponent, _Edge(*node.next_functions[0])
        if below is None:
            return
        if name in _PARTS:
            which = (getattr(node, f"_saved_{key}", None) for key in _WHICH)
            parts = (*parts, name, edge.output, *which)
        elif name == ("Exp" if is_logarithm else "Log"):
            is_logarithm = not is_logarithm
        elif name not in (*KEEP, *_LIMITS):
            exponent *= _factor_of_logarithm(node) if is_logarithm else _factor_of_values(node)
        if not math.isfinite(exponent):
            return
        edge = below


def _factor_of_values(node: Any) -> float:
    """Return by what a node multiplies its only trained input, except for what it adds."""
    if operation(node) in ("Add", "Sub"):
        trained = 0 if node.next_functions[0][0] is not None else 1
        return factors_of_inputs(node)[trained]
    return factor(node)


def _factor_of_logarithm(node: Any) -> float:
    """Return the power to which a node raises its only trained input, except for factors."""
    name = operation(node)
    if name == "Pow":
        return float(node._saved_exponent)
    if name == "Div":
        return 1.0 if node.next_functions[0][0] is not None else -1.0
    return 1.0 if name == "Mul" else _POWERS.get(name, math.nan)


def _without_factors(edge: _Edge, coefficient: float) -> tuple[_Edge, float]:
    """Return the values that are multiplied by constants, and the coefficient times these."""
    for _ in range(NODES_MAX):
        below = _only_input(edge.node)
        if below is None or operation(edge.node) not in _FACTORS:
            break
        coefficient *= factor(edge.node)
        edge = below
    return edge, coefficient


def _only_input(node: Any) -> _Edge | None:
    """Return the only trained input of a node; None if it has several or none."""
    trained = [] if node is None else [_Edge(*e) for e in node.next_functions if e[0] is not None]
    return trained[0] if len(trained) == 1 else None


def _is_square(node: Any) -> bool:
    return operation(node) == "Pow" and node._saved_exponent == 2 and _only_input(node) is not None


def _is_error(node: Any) -> bool:
    """Whether a node subtracts constants from trained values, or the other way round."""
    return operation(node) == "Sub" and len(node.next_functions) == 2 and bool(_only_input(node))
