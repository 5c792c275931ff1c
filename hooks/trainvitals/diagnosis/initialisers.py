"""Which initialiser a weight or a bias has: names for a sample of its entries.

Comes in: entries, the fans, the gain if the rows are orthogonal. Goes out: an `Initialiser`.
Method:   the family (normal, truncated normal, uniform) is the one under which the entries are
          most likely. Its scale is then compared with the scale of each named initialiser.
Start at `identify_entries`.

Where two names denote the same distribution for a shape, the first of this order is taken:
torch_default, xavier (gain 1), he (gain √2), lecun, xavier (gain 5/3), xavier (gain √2), and last
N(0, 0.02).

Sources: Glorot & Bengio 2010; He et al. 2015, arXiv:1502.01852; LeCun et al., "Efficient BackProp",
1998; Saxe et al. 2014, arXiv:1312.6120 (orthogonal); Radford et al. 2019 (GPT-2: N(0, 0.02)).
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals.api.schema import Initialiser

Floats = npt.NDArray[np.float64]

ENTRIES_MIN: Final = 8
"""With fewer entries that are not all equal the name is unknown."""
EXCESS_KURTOSIS: Final = {"normal": 0.0, "truncated_normal": -0.64, "uniform": -1.2}
TOLERANCE: Final = 0.01
"""What rounding (float16, bfloat16) may change of a scale, as a share."""
CUT: Final = 2.0
"""A truncated normal is cut at this many σ, as in timm, Keras and JAX."""
CUT_STD: Final = 0.87962566
"""Standard deviation of a standard normal that is cut at ±2."""
CUT_MASS: Final = math.erf(CUT / math.sqrt(2))
SAMPLE: Final = 8192
"""Number of entries whose distribution function is compared."""
KOLMOGOROV: Final = 1.95
"""√n times the Kolmogorov distance that 0.1 % of samples exceed."""
GPT2_STD: Final = 0.02


class _Candidate(NamedTuple):
    name: str
    std: float
    parameters: dict[str, float]


class _Family(NamedTuple):
    name: str
    scale: float
    """Standard deviation of the family's best fit."""
    log_likelihood: float


def identify_entries(
    entries: Floats,
    fan_in: float | None = None,
    fan_out: float | None = None,
    orthogonal_gain: float | None = None,
) -> Initialiser:
    """Return the initialiser of `entries`, shape (n,), n ≥ 1, all finite.

    Without `fan_in` no name that depends on it is returned. `orthogonal_gain` is the norm of the
    rows (or columns, whichever are fewer) if these are orthogonal.
    """
    first = float(entries[0])
    if np.all(entries == first):
        return _constant(first)
    if orthogonal_gain is not None:
        return Initialiser(
            name="orthogonal", parameters={"gain": orthogonal_gain}, confidence=1.0, distance=0.0
        )
    if entries.size < ENTRIES_MIN:
        return Initialiser(name="unknown")
    mean = _mean_if_certain(entries)
    centred = entries - mean
    families = _families(centred)
    best = max(families, key=lambda family: family.log_likelihood)
    if (
        _kolmogorov_distance(centred, best)
        > KOLMOGOROV / math.sqrt(min(entries.size, SAMPLE)) + TOLERANCE
    ):
        return Initialiser(name="unknown")
    weights = np.exp([f.log_likelihood - best.log_likelihood for f in families])
    return _named(best, mean, entries.size, (fan_in, fan_out), float(1 / weights.sum()))


def tolerance_of(family: str, count: int) -> float:
    """Return the relative difference of a scale that the sampling of `count` entries explains.

    Four standard errors: 4·√((κ + 2)/(4·N)) for a standard deviation with excess kurtosis κ. The
    bounds of a uniform distribution are known better: the largest of N entries misses the bound by
    more than 14/N with a probability of 1e-6.
    """
    if family == "uniform":
        return min(14 / count, 0.5) + TOLERANCE / 2
    return 4 * math.sqrt((EXCESS_KURTOSIS[family] + 2) / (4 * count)) + TOLERANCE


def candidates(family: str, fan_in: float | None, fan_out: float | None) -> list[_Candidate]:
    """Return the named initialisers of a family, the preferred ones first."""
    found: list[_Candidate] = []
    if family == "truncated_normal":
        return found
    if fan_in:
        if family == "uniform":
            found.append(_Candidate("torch_default", 1 / math.sqrt(3 * fan_in), {}))
        xavier = math.sqrt(2 / (fan_in + fan_out)) if fan_out else math.nan
        he, lecun = math.sqrt(2 / fan_in), math.sqrt(1 / fan_in)
        found += [
            _Candidate(f"xavier_{family}", xavier, {"gain": 1.0}),
            _Candidate(f"he_{family}", he, {"gain": math.sqrt(2)}),
            _Candidate(f"lecun_{family}", lecun, {"gain": 1.0}),
            _Candidate(f"xavier_{family}", xavier * 5 / 3, {"gain": 5 / 3}),
            _Candidate(f"xavier_{family}", xavier * math.sqrt(2), {"gain": math.sqrt(2)}),
        ]
    if family == "normal":
        found.append(_Candidate("normal", GPT2_STD, {"mean": 0.0, "std": GPT2_STD}))
    return [c for c in found if math.isfinite(c.std)]


def _constant(value: float) -> Initialiser:
    if value == 0:
        return Initialiser(name="zeros", confidence=1.0)
    if value == 1:
        return Initialiser(name="ones", confidence=1.0)
    return Initialiser(name="constant", parameters={"value": value}, confidence=1.0)


def _mean_if_certain(entries: Floats) -> float:
    """Return the mean if it differs from 0 by more than four standard errors, otherwise 0."""
    mean = float(entries.mean())
    return mean if abs(mean) > 4 * float(entries.std()) / math.sqrt(entries.size) else 0.0


def _families(x: Floats) -> list[_Family]:
    """Return the best fit of each family to entries around 0."""
    n, square, largest = x.size, float(np.square(x).mean()), float(np.abs(x).max())
    normal = math.sqrt(square)
    cut = max(normal / CUT_STD, largest / CUT)
    bound = largest * (1 + 1 / n)
    return [
        _Family("normal", normal, -n * (math.log(normal * math.sqrt(2 * math.pi)) + 0.5)),
        _Family(
            "truncated_normal",
            cut * CUT_STD,
            -n * (math.log(cut * math.sqrt(2 * math.pi) * CUT_MASS) + square / (2 * cut * cut)),
        ),
        _Family("uniform", bound / math.sqrt(3), -n * math.log(2 * bound)),
    ]


def _kolmogorov_distance(x: Floats, family: _Family) -> float:
    """Return the largest difference between the distribution functions of entries and family."""
    step = -(-x.size // SAMPLE)
    ordered = np.sort(x[::step])
    if family.name == "uniform":
        expected = np.clip(0.5 + ordered / (2 * family.scale * math.sqrt(3)), 0, 1)
    else:
        sigma = family.scale / (CUT_STD if family.name == "truncated_normal" else 1)
        erf = np.array([math.erf(v) for v in ordered / (sigma * math.sqrt(2))])
        expected = 0.5 + erf / (2 * (CUT_MASS if family.name == "truncated_normal" else 1))
    n = ordered.size
    above = np.arange(1, n + 1) / n - expected
    return float(max(above.max(), (expected - np.arange(n) / n).max()))


def _named(
    family: _Family,
    mean: float,
    count: int,
    fans: tuple[float | None, float | None],
    certainty: float,
) -> Initialiser:
    tolerance = tolerance_of(family.name, count)
    named = candidates(family.name, *fans) if mean == 0 else []
    distances = [abs(family.scale / candidate.std - 1) for candidate in named]
    near = [i for i, distance in enumerate(distances) if distance <= tolerance]
    if not near:
        return Initialiser(
            name=family.name,  # type: ignore[arg-type]
            parameters=_free_parameters(family, mean),
            confidence=certainty,
            distance=0.0,
        )
    # Equal up to rounding: the order of the candidates decides.
    best = min(near, key=lambda i: (round(distances[i], 9), i))
    weights = [math.exp(-0.5 * (4 * distances[i] / tolerance) ** 2) for i in near]
    share = weights[near.index(best)] / sum(weights)
    chosen = named[best]
    return Initialiser(
        name=chosen.name,  # type: ignore[arg-type]
        parameters=chosen.parameters,
        confidence=certainty * share,
        distance=distances[best],
    )


def _free_parameters(family: _Family, mean: float) -> dict[str, float]:
    if family.name == "uniform":
        bound = family.scale * math.sqrt(3)
        return {"low": mean - bound, "high": mean + bound}
    return {"mean": mean, "std": family.scale}
