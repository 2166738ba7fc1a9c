"""What a user would run instead of each metric: other packages, scikit-learn, plain listings."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tests.benchmarks import listings
from transfer_metrics.errors import MissingDependencyError

PLAIN_H_SCORE = "h_score(shrinkage=None)"
# What is scored together in one call, what compares pairs of examples, what reads a source head.
SIX = ("transrate", "logme", PLAIN_H_SCORE, "h_score", "gbc", "ridge_probe")
FIVE = tuple(metric for metric in SIX if metric != PLAIN_H_SCORE)
PAIRWISE = ("knn", "parc", "lfc")
SOURCE = ("leep", "nce")
ABSENT = "not installed"
INSTALL = {
    "transformer_ranker": "transformer-ranker",
    "tllib": "git+https://github.com/thuml/Transfer-Learning-Library",
}


@dataclass(frozen=True)
class Peer:
    """Another implementation of a metric.

    Attributes:
        metric: the metric as ``score`` is asked for it.
        name: what it is called in tables.
        run: takes features (N, D), or source probabilities (N, Z), and labels; gives the score.
        tolerance: relative difference from the toolkit's score up to which both are the same
            number; None where the definitions differ by more than rounding.
        matrices: N x N float64 matrices held at once.
        package: a package that need not be installed.
        dtype: what the features are converted to beforehand.
    """

    metric: str
    name: str
    run: Callable[[np.ndarray, np.ndarray], float]
    tolerance: float | None = 1e-6
    matrices: float = 0.0
    package: str = ""
    dtype: str = "float64"

    def needs(self, n: int) -> float:
        """Bytes that its N x N matrices take."""
        return self.matrices * 8.0 * n * n


def _transformer_ranker(estimator: str, x: np.ndarray, y: np.ndarray, **options: Any) -> float:
    import torch

    module = importlib.import_module("transformer_ranker.estimators")
    estimate = getattr(module, estimator)(**options)
    return float(estimate.fit(embeddings=torch.from_numpy(x), labels=torch.from_numpy(y)))


def _tllib(module: str, function: str, x: np.ndarray, y: np.ndarray) -> float:
    return float(getattr(importlib.import_module(f"tllib.ranking.{module}"), function)(x, y))


def _tllib_nce(p: np.ndarray, y: np.ndarray) -> float:
    return _tllib("nce", "negative_conditional_entropy", p.argmax(axis=1), y)


def ridge(x: np.ndarray, y: np.ndarray) -> float:
    """scikit-learn's leave-one-out ridge classifier over the strengths of ``ridge_probe``.

    It takes the strength with the best accuracy where ``ridge_probe`` takes that with the smallest
    error, so its accuracy can be a little higher.
    """
    from sklearn.linear_model import RidgeClassifierCV

    from transfer_metrics.metrics.probes import _RIDGE_PATH

    unit = x.var(axis=0).sum() * len(x) / min(len(x) - 1, x.shape[1])
    return float(
        RidgeClassifierCV(np.array(_RIDGE_PATH) * unit, scoring="accuracy").fit(x, y).best_score_
    )


def neighbours(x: np.ndarray, y: np.ndarray, k: int = 5) -> float:
    """scikit-learn's brute-force search, each example left out; ties go to the first class."""
    from sklearn.neighbors import KNeighborsClassifier

    voters = KNeighborsClassifier(k, algorithm="brute", metric="cosine").fit(x, y)
    return float(voters.score(None, y))


def _others(metric: str, package: str, tolerance: float | None, *call: Any) -> Peer:
    run = _transformer_ranker if package == "transformer_ranker" else _tllib
    name = package.replace("_", "-")
    return Peer(metric, name, partial(run, *call), tolerance, package=package)


PEERS = (
    Peer("transrate", "the paper's listing", listings.transrate),
    _others("transrate", "tllib", 1e-6, "transrate", "transrate"),
    # Ours is the maximum itself; the others stop on the way to it.
    Peer("logme", "listing, SVD of X", listings.logme, None),
    Peer("logme", "listing, eigenvectors of X'X", partial(listings.logme, gram=True), None),
    _others("logme", "transformer_ranker", None, "LogME"),
    _others("logme", "tllib", None, "logme", "log_maximum_evidence"),
    Peer(PLAIN_H_SCORE, "listing, pinv", listings.h_score),
    _others(PLAIN_H_SCORE, "tllib", 1e-6, "hscore", "h_score"),
    Peer("h_score", "listing, LedoitWolf", listings.shrunk_h_score),
    _others("h_score", "transformer_ranker", 1e-6, "HScore"),
    _others("h_score", "tllib", 1e-6, "hscore", "regularized_h_score"),
    # scikit-learn's default takes random projections where D is large.
    Peer("gbc", "listing, PCA as it comes", listings.gbc, None),
    Peer("gbc", "listing, exact PCA", partial(listings.gbc, svd_solver="covariance_eigh")),
    Peer("ridge_probe", "scikit-learn RidgeClassifierCV", ridge, None),
    Peer("knn", "scikit-learn, brute force", neighbours, None, dtype="float32"),
    Peer(
        "knn",
        "transformer-ranker (Euclidean)",
        partial(_transformer_ranker, "NearestNeighbors", k=5),
        None,
        package="transformer_ranker",
        dtype="float32",
    ),
    Peer("parc", "listing, N x N", listings.parc, None, matrices=7.3),
    Peer("lfc", "listing, N x N", listings.lfc, matrices=2.2),
    Peer("leep", "listing, example by example", listings.leep_loop),
    Peer("leep", "listing, two products", listings.leep),
    _others("leep", "tllib", 1e-6, "leep", "log_expected_empirical_prediction"),
    Peer("nce", "listing, class by class", listings.nce_loop),
    Peer("nce", "listing, one table", listings.nce),
    Peer("nce", "tllib", _tllib_nce, package="tllib"),
)


def absent(package: str) -> str:
    """Why a package cannot be used, with what to install; empty where it imports.

    >>> absent("json"), absent("no_such_package_at_all")
    ('', 'not installed; pip install no_such_package_at_all')
    """
    from transfer_metrics.sources.optional import require

    if package == "transformer_ranker":
        # Its own import of torchvision fails where the build does not fit torch's; ours mends that.
        with suppress(MissingDependencyError):
            require("torchvision", "transformer-ranker")
    modules = {"transformer_ranker": "transformer_ranker.estimators", "tllib": "tllib.ranking"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(modules.get(package, package))
    except (ImportError, RuntimeError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            return f"{ABSENT}; pip install {INSTALL.get(package, package)}"
        return f"does not import ({error})"
    return ""
