"""The chance of each model to be the best, by simulating all that may be wrong with its score.

Scores and normal scores of the accuracies are taken to be normal together, with a correlation whose
Fisher's z is itself normal: it differs between tasks and is known from few of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np

from transfer_metrics.errors import InvalidInputError

_DRAWS = 20_000
# Draws of a model that are held at a time.
_HELD = 2**21
# A correlation of one leaves nothing to a second sign.
_MOST = 1 - 1e-9
# Of the quadrature over what the correlations may be.
_PLACES = 15


class Trust(NamedTuple):
    """How far an order can be trusted: Fisher's z of its correlation with the accuracies."""

    mean: float  # expected on a new task
    error: float  # standard deviation: between tasks, and from knowing few of them

    @property
    def correlation(self) -> float:
        """The correlation at the mean."""
        return round(math.tanh(self.mean), 12)


_SURE = Trust(math.inf, 0.0)
"""The order of the scores is that of the accuracies."""


class Standing(NamedTuple):
    """Where the candidates stood on earlier tasks."""

    values: Sequence[float]  # (M,) in any unit, higher is better; NaN for a model that is new
    trust: Trust  # in that order on a new task
    # (M, T): what they reached on each, NaN for a model that is new. Of the variance that the
    # values leave, models have this share in common with those that are alike in it.
    profiles: Sequence[Sequence[float]] | None = None
    shared: float = 0.0


def probability_of_best(
    scores: Sequence[float],
    stderr: Sequence[float],
    deviations: Sequence[Sequence[float] | None],
    higher_is_better: bool = True,
    *,
    trust: Trust = _SURE,
    standing: Standing | None = None,
    draws: int = _DRAWS,
) -> np.ndarray:
    """Probability that each candidate is the best, (M,), by simulation.

    With the default trust the best is the one with the highest score, and only sampling errors
    count: NaN throughout where one is missing. Otherwise it is the one with the highest accuracy,
    and a missing sampling error counts as none. Candidates with deviations over common blocks share
    their sampling errors, those without have independent ones. Scores are standardised over the
    candidates, and that few candidates tell little about their spread is drawn as well, so that two
    candidates are in order as often as their correlation ``r`` says, ``1/2 + asin(r) / pi``. The
    probabilities sum to one. Cost: O(draws M (B + M)); 40 ms for ten candidates and no deviations.

    >>> probability_of_best([1.0, 0.0], [0.1, 0.1], [[0.1], [0.1]])
    array([1., 0.])
    >>> trust = Trust(math.atanh(0.5), 0.0)
    >>> probability_of_best([1.0, 0.0], [0.0, 0.0], [None, None], trust=trust).round(1)
    array([0.7, 0.3])
    """
    count = len(scores)
    values, errors = (np.asarray(given, dtype=float) for given in (scores, stderr))
    usable = np.isfinite(values).all() and (trust != _SURE or np.isfinite(errors).all())
    if not count or not usable:
        return np.full(count, math.nan)
    # In units of the largest, so that nothing over- or underflows.
    unit = (1.0 if higher_is_better else -1.0) * (float(np.abs(values).max()) or 1.0)
    values = values / unit
    values, errors = values - values.mean(), errors / abs(unit)
    before, profiles = np.full(count, math.nan), np.empty((count, 0))
    if standing is not None:
        before = _standardised(np.asarray(standing.values, dtype=float))
        if standing.profiles is not None:
            profiles = np.asarray(standing.profiles, dtype=float)
    # The same draws whatever the order in which the candidates come.
    first = np.array([0.0 if d is None or not len(d) else d[0] for d in deviations])
    order = np.lexsort((*profiles.T, first, errors, before, values))
    if standing is not None:
        standing = standing._replace(
            values=before[order].tolist(), profiles=profiles[order].tolist()
        )
    known = np.isfinite(before[order])
    alike = _left(standing, known) if standing is not None and known.any() else None
    errors = np.where(np.isfinite(errors), errors, 0.0)[order]
    noise = _Noise([deviations[i] for i in order], errors, unit)
    scale = float(values.std(ddof=1)) if count > 1 else 0.0
    if scale <= 1e-12:
        scale = float(np.sqrt(np.square(errors).mean())) or 1.0
    rng = np.random.default_rng(0)
    wins = np.zeros(count)
    step = max(1, min(draws, _HELD // count))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        drawn = (values[order] + noise.draw(rng, size)) / scale
        if trust != _SURE:
            drawn = _accuracies(rng, drawn, trust, standing, alike)
        top = drawn == drawn.max(axis=1, keepdims=True)
        wins += (top / top.sum(axis=1, keepdims=True)).sum(axis=0)
    found = np.empty(count)
    found[order] = wins / draws
    # What is known of equals is equal, and so are their chances.
    alone = [d is None or not len(d) for d in deviations]
    given = np.nan_to_num(np.asarray(stderr, float), nan=-1.0)
    own = np.vstack([values, given, before, alone, profiles.T])
    _, equal = np.unique(np.nan_to_num(own, nan=math.inf), axis=1, return_inverse=True)
    equal = equal.ravel()  # numpy 2.0 gives it another shape
    for number in np.unique(equal[alone]):
        found[equal == number] = found[equal == number].mean()
    return found


def expected(
    scores: Sequence[float],
    higher_is_better: bool,
    trust: Trust,
    standing: Standing | None,
) -> np.ndarray:
    """Expected accuracy of each candidate, (M,), in deviations; of scores and standing together.

    The mean over what the two correlations may be. Cost: O(M^3) once, and O(M) for each.
    """
    s = _standardised((1.0 if higher_is_better else -1.0) * np.asarray(scores, dtype=float))
    if standing is None:
        return s
    p = _standardised(np.asarray(standing.values, dtype=float))
    places, shares = np.polynomial.hermite_e.hermegauss(_PLACES)
    shares = shares / shares.sum()
    rho = np.tanh(trust.mean + trust.error * places)
    found, known = float(shares @ rho) * s, np.isfinite(p)
    if known.any():
        other = np.tanh(standing.trust.mean + standing.trust.error * places)
        rho, other = (each.reshape(-1, 1) for each in np.meshgrid(rho, other))
        variances, along = _left(standing, known)
        a, b, _ = _regression(rho, other, variances)
        weights = np.outer(shares, shares).ravel()
        found[known] = along @ (weights @ a * (s[known] @ along) + weights @ b * (p[known] @ along))
    # What is equal but for rounding is equal.
    return found.round(12)


def smallest_set(chances: Sequence[float] | np.ndarray, confidence: float) -> list[int]:
    """Positions of the fewest candidates that hold the best with some probability, likeliest first.

    Of several with the same chance, all are taken or none.
    """
    if not (isinstance(confidence, Real) and 0 < confidence < 1):
        raise InvalidInputError(
            f"the confidence must be a number between 0 and 1, such as 0.9, not {confidence!r}"
        )
    known = np.nan_to_num(np.asarray(chances, dtype=float))
    order = np.argsort(-known, kind="stable")
    total = np.cumsum(known[order])
    enough = int(np.searchsorted(total, confidence * total[-1] - 1e-12)) + 1 if len(total) else 0
    while 0 < enough < len(order) and known[order[enough]] == known[order[enough - 1]]:
        enough += 1
    return [int(i) for i in order[:enough]]


class _Noise:
    """Sampling errors of the candidates, drawn together."""

    def __init__(
        self, deviations: Sequence[Sequence[float] | None], errors: np.ndarray, unit: float
    ) -> None:
        groups: dict[int, list[int]] = {}
        for i, own in enumerate(deviations):
            groups.setdefault(0 if own is None else len(own), []).append(i)
        self._alone = np.array(groups.pop(0, []), dtype=int)
        self._errors = errors
        self._common = [
            (np.array(own), np.array([deviations[i] for i in own], dtype=float).T / unit)
            for _, own in sorted(groups.items())
        ]

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Errors of (size, M)."""
        drawn = np.zeros((size, len(self._errors)))
        for own, deviations in self._common:
            drawn[:, own] = rng.standard_normal((size, len(deviations))) @ deviations
        if self._errors[self._alone].any():
            alone = rng.standard_normal((size, len(self._alone)))
            drawn[:, self._alone] = self._errors[self._alone] * alone
        return drawn


def _accuracies(
    rng: np.random.Generator,
    scores: np.ndarray,
    trust: Trust,
    standing: Standing | None,
    alike: Kinship | None,
) -> np.ndarray:
    """Accuracies that may belong to standardised scores, (draws, M), and such a standing."""
    size, count = scores.shape
    rho = np.tanh(trust.mean + trust.error * rng.standard_normal((size, 1)))
    mean, error = rho * _spread(rng, size, count) * scores, np.sqrt(1 - rho**2)
    if standing is None or alike is None:
        return mean + error * rng.standard_normal((size, count))
    before, earlier = np.asarray(standing.values), standing.trust
    known = np.isfinite(before)
    other = np.tanh(earlier.mean + earlier.error * rng.standard_normal((size, 1)))
    own = _spread(rng, size, count) * scores[:, known]
    ahead = _spread(rng, size, int(known.sum())) * before[known]
    noise = rng.standard_normal((size, count))
    drawn = mean + error * noise
    variances, along = alike
    a, b, left = _regression(rho, other, variances)
    turned = a * (own @ along) + b * (ahead @ along) + np.sqrt(left) * (noise[:, known] @ along)
    drawn[:, known] = turned @ along.T
    return drawn


class Kinship(NamedTuple):
    """Directions, orthonormal, in which what a standing leaves varies, and how much in each."""

    values: np.ndarray  # (M,), their mean one
    vectors: np.ndarray  # (M, M), in columns; first what is common to all, then the standing


def kinship(standing: np.ndarray, profiles: np.ndarray) -> Kinship:
    """How alike models are, beside their standing (M,), by what each reached on T tasks, (M, T).

    Correlations fall with the distance of two profiles as ``exp(-d / median d)``.

    >>> profiles = np.array([[0.0, 0.0], [0.0, 0.0], [9.0, -9.0], [9.0, -9.0]])
    >>> kinship(np.array([1.0, -1.0, 1.0, -1.0]), profiles).values.round(1)
    array([1., 1., 0., 2.])
    """
    from scipy.spatial.distance import pdist, squareform

    count, apart = len(profiles), pdist(profiles)
    given = [np.ones(count), standing] if np.ptp(standing) else [np.ones(count)]
    fixed, vectors = len(given), np.linalg.qr(np.stack(given, axis=1), mode="complete")[0]
    rest, values = vectors[:, fixed:], np.ones(count)
    if count > fixed and apart.any():
        alike = np.exp(-squareform(apart) / np.median(apart[apart > 0]))
        found, turned = np.linalg.eigh(rest.T @ alike @ rest)
        # Where the standing tells all profiles apart, nothing but rounding is left.
        if found.mean() > 1e-9:
            values[fixed:] = np.clip(found, 0.0, None) / found.mean()
            vectors[:, fixed:] = rest @ turned
    return Kinship(values, vectors)


def _left(standing: Standing, known: np.ndarray) -> Kinship:
    """In which directions the standing of those that have one leaves how much of its variance."""
    profiles = np.zeros((len(known), 1)) if standing.profiles is None else standing.profiles
    values = np.asarray(standing.values, dtype=float)
    found = kinship(values[known], np.asarray(profiles, dtype=float)[known])
    return found._replace(values=1 - standing.shared + standing.shared * found.values)


def _regression(
    rho: np.ndarray, other: np.ndarray, left: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients of two signs of one quantity and the variance that they leave.

    Given the quantity the two are independent. ``left`` is 1, or more or less along directions in
    which the second leaves more or less than it does on average.
    """
    rho, other = (np.clip(r, -_MOST, _MOST) for r in (rho, other))
    before = (1 - other**2) * left
    gain = rho * before / (1 - rho**2 + rho**2 * before)
    return gain, other * (1 - gain * rho), before * (1 - gain * rho)


def _spread(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """What the spread of few candidates may be, over that which they show; (size, 1)."""
    freedom = max(count - 1, 1)
    return np.sqrt(rng.chisquare(freedom, (size, 1)) / freedom)


def _standardised(values: np.ndarray) -> np.ndarray:
    """Zero mean and unit deviation over those that are known; zeros where all are the same."""
    known = np.isfinite(values)
    found = np.full(values.shape, math.nan)
    if known.any():
        largest = float(np.abs(values[known]).max()) or 1.0
        own = values[known] / largest
        own = own - own.mean()
        spread = float(own.std(ddof=1)) if len(own) > 1 else 0.0
        found[known] = own / spread if spread > 1e-12 else 0.0
    return found
