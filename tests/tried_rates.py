"""Rates of features and labels that were tried on the way to `label_rate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma

import transfer_metrics as tm
from transfer_metrics.metrics.label_rate import _chance_rate


@dataclass(frozen=True)
class Spectra:
    """All that the rates of one pair need: eigenvalues of scatter matrices, and what they are of.

    Attributes:
        total: about the mean, (r,).
        within: about the class means, all classes together, (r,).
        own: of each class about its mean.
        counts: examples per class, (C,).
    """

    total: np.ndarray
    within: np.ndarray
    own: tuple[np.ndarray, ...]
    counts: np.ndarray

    @classmethod
    def of(cls, z: np.ndarray, y: np.ndarray) -> Spectra:
        y = np.unique(y, return_inverse=True)[1]
        groups = [z[y == c] - z[y == c].mean(axis=0) for c in range(y.max() + 1)]
        total = _eigenvalues(z - z.mean(axis=0))
        return cls(
            total[total > total[0] * 1e-12],
            _eigenvalues(np.concatenate(groups)),
            tuple(_eigenvalues(g) for g in groups),
            np.bincount(y),
        )

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    @property
    def variance(self) -> float:
        return float(self.total.sum()) / self.n

    def rate(self, eps: float) -> float:
        return _rate(self.total, self.n * eps)


def _eigenvalues(rows: np.ndarray) -> np.ndarray:
    small = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    return np.linalg.eigvalsh(small)[::-1].clip(0.0)


def _rate(eigenvalues: np.ndarray, scale: float) -> float:
    return 0.5 * float(np.log1p(eigenvalues / scale).sum())


# --- distortions -------------------------------------------------------------------------------

Distortion = Callable[[Spectra], float]


def share(c: float) -> Distortion:
    """As ``eps="auto"``: a share of the mean variance per direction."""
    return lambda s: c * s.variance / len(s.total)


def budget(k: Callable[[int, int], float]) -> Distortion:
    """One signal-to-noise ratio k(n, C) for all."""
    return lambda s: s.variance / k(s.n, len(s.counts))


def equal_rate(k: Callable[[int, int], float]) -> Distortion:
    """One total rate of k(n, C) nats for all."""
    return lambda s: _solved(lambda e: k(s.n, len(s.counts)) - s.rate(e))


def equal_freedom(k: float) -> Distortion:
    """One effective number of directions, ``Σ λ / (λ + ε)``, for all."""
    return lambda s: _solved(
        lambda e: min(k, 0.9 * len(s.total)) - float((s.total / (s.total + s.n * e)).sum())
    )


def _solved(excess: Callable[[float], float]) -> float:
    return float(np.exp(brentq(lambda t: excess(np.exp(t)), -120.0, 80.0)))


# --- scores ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Features (N, D) and labels (N,) of a model on a task."""

    x: np.ndarray
    y: np.ndarray

    @cached_property
    def spectra(self) -> Spectra:
        return Spectra.of(self.x, self.y)

    @cached_property
    def moments(self) -> tm.ClassMoments:
        return tm.ClassMoments.from_batch(self.x, self.y, parts={"class"})


Score = Callable[[Pair], float]


def own_codes(eps: Distortion, *, chance: bool) -> Score:
    """A covariance per class, about its mean, weighted by frequency."""

    def score(pair: Pair) -> float:
        s = pair.spectra
        e = eps(s)
        usual = {int(count): s.rate(e) for count in s.counts}
        if chance:
            # Permuted labels leave ``count - 1`` dimensions to a class.
            usual = {
                count: _chance_rate(s.total / (count * e), s.n, s.n + 1 - count)
                if count > 1
                else 0.0
                for count in usual
            }
        return sum(
            count / s.n * (usual[int(count)] - _rate(own, count * e))
            for count, own in zip(s.counts, s.own, strict=True)
        )

    return score


def one_code(eps: Distortion, *, chance: bool) -> Score:
    """One covariance for all classes."""

    def score(pair: Pair) -> float:
        s = pair.spectra
        e = eps(s)
        usual = _chance_rate(s.total / (s.n * e), s.n, len(s.counts)) if chance else s.rate(e)
        return usual - _rate(s.within, s.n * e)

    return score


def leading(score: Score, k: Callable[[int], int], *, whiten: bool = False) -> Score:
    """A score of the leading k(n) principal components."""

    def of_components(pair: Pair) -> float:
        x, y = pair.x, pair.y
        u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
        kept = min(k(len(x)), int((s > s[0] * 1e-6).sum()), len(x) - len(np.unique(y)) - 1)
        return score(Pair(u[:, :kept] * (1.0 if whiten else s[:kept]), y))

    return of_components


def wilks(pair: Pair) -> float:
    """``-½ log Λ`` less its mean for Gaussian features, of whitened components."""
    s, width = pair.spectra, pair.x.shape[1]
    i, n, k = np.arange(width), s.n, len(s.counts)
    usual = 0.5 * float((digamma((n - 1 - i) / 2) - digamma((n - k - i) / 2)).sum())
    return -0.5 * float(np.log(s.within[:width]).sum()) - usual


def _root(n: int) -> int:
    return round(n**0.5)


def _log(n: int, c: int) -> float:
    return float(np.log(n))


def _sqrt(n: int, c: int) -> float:
    return float(n**0.5)


def _32(n: int, c: int) -> float:
    return 32.0


TRIED: dict[str, Score] = {
    "the listing: `transrate`": lambda pair: float(tm.transrate(pair.moments)),
    "its eps relative: `transrate(eps=auto)`": lambda pair: float(
        tm.transrate(pair.moments, eps="auto")
    ),
    "own codes, eps=auto, less chance": own_codes(share(0.1), chance=True),
    "own codes, rate log n": own_codes(equal_rate(_log), chance=False),
    "own codes, rate log n, less chance": own_codes(equal_rate(_log), chance=True),
    "own codes, rate 32 nats": own_codes(equal_rate(_32), chance=False),
    "own codes, rate 32 nats, less chance": own_codes(equal_rate(_32), chance=True),
    "own codes, 32 degrees of freedom, less chance": own_codes(equal_freedom(32.0), chance=True),
    "own codes, budget √n": own_codes(budget(_sqrt), chance=False),
    "own codes, budget √n, less chance": own_codes(budget(_sqrt), chance=True),
    "own codes, budget n, less chance": own_codes(budget(lambda n, c: n), chance=True),
    "own codes, leading 32, eps=auto, less chance": leading(
        own_codes(share(0.1), chance=True), lambda n: 32
    ),
    "one code, eps=auto, less chance": one_code(share(0.1), chance=True),
    "one code, rate log n, less chance": one_code(equal_rate(_log), chance=True),
    "one code, rate 32 nats, less chance": one_code(equal_rate(_32), chance=True),
    "one code, 32 degrees of freedom, less chance": one_code(equal_freedom(32.0), chance=True),
    "one code, budget √n, less chance": one_code(budget(_sqrt), chance=True),
    "one code, budget n / C, less chance": one_code(budget(lambda n, c: n / c), chance=True),
    "one code, budget 2 n, less chance": one_code(budget(lambda n, c: 2 * n), chance=True),
    "one code, leading √n, whitened: Wilks less Wishart": leading(wilks, _root, whiten=True),
    "one code, budget n": one_code(budget(lambda n, c: n), chance=False),
    "one code, budget n, less chance: `label_rate`": lambda pair: float(
        tm.label_rate(pair.moments)
    ),
}
LISTING, CHOSEN = next(iter(TRIED)), [*TRIED][-1]
