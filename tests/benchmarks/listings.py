"""The published formulas as they are usually written in numpy, in a few lines each.

``tests.benchmarks.speed`` races the toolkit against them and checks that both compute the same
number. They take float64 features (N, D), or source probabilities (N, Z), and labels 0..C-1 that
all occur, and no care of awkward inputs.
"""

from __future__ import annotations

import numpy as np


def transrate(x: np.ndarray, y: np.ndarray, eps: float = 1e-4) -> float:
    """TransRate as in the paper's listing: C + 1 determinants of D x D matrices.

    >>> from sklearn.datasets import load_iris
    >>> round(float(transrate(*load_iris(return_X_y=True))), 6)
    0.589405
    """

    def rate(z: np.ndarray) -> float:
        n, d = z.shape
        return 0.5 * np.linalg.slogdet(np.eye(d) + 1 / (n * eps) * z.T @ z)[1]

    z = x - x.mean(axis=0)
    classes = np.unique(y)
    return rate(z) - sum(rate(z[y == c]) for c in classes) / len(classes)


def logme(x: np.ndarray, y: np.ndarray, gram: bool = False) -> float:
    """LogME by the published iteration, after one SVD of X, or one eigendecomposition of ``X'X``.

    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> round(logme(x, y), 5), round(logme(x, y, gram=True), 5)
    (-0.16006, -0.16006)
    """
    targets = np.eye(y.max() + 1)[y]
    if gram:
        sigma, v = np.linalg.eigh(x.T @ x)
        kept = sigma > 1e-14 * sigma[-1]
        sigma = sigma[kept]
        h = v[:, kept].T @ (x.T @ targets) / np.sqrt(sigma)[:, None]
    else:
        u, s, _ = np.linalg.svd(x, full_matrices=False)
        sigma, h = s**2, u.T @ targets
    rest = np.maximum(targets.sum(axis=0) - (h**2).sum(axis=0), 0)
    pairs = zip(h.T, rest, strict=True)
    return float(np.mean([_evidence(sigma, a**2, b, *x.shape) for a, b in pairs]))


def _evidence(sigma: np.ndarray, squares: np.ndarray, rest: float, n: int, d: int) -> float:
    """Log evidence per example of one class: at most 11 rounds, until α / β moves by 1 %."""
    alpha = beta = 1.0
    for _ in range(11):
        ratio = alpha / beta
        gamma = (sigma / (sigma + ratio)).sum()
        norm = (sigma * squares / (sigma + ratio) ** 2).sum()
        residual = (squares * (ratio / (sigma + ratio)) ** 2).sum() + rest
        alpha, beta = gamma / norm, (n - gamma) / residual
        if abs(alpha / beta - ratio) <= 0.01 * ratio:
            break
    log_det = np.log(alpha + beta * sigma).sum() + (d - len(sigma)) * np.log(alpha)
    fit = d * np.log(alpha) + n * np.log(beta / (2 * np.pi)) - log_det
    return 0.5 * (fit - beta * residual - alpha * norm) / n


def class_means(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean of each class, (C, D)."""
    return np.stack([x[y == c].mean(axis=0) for c in np.unique(y)])


def h_score(x: np.ndarray, y: np.ndarray) -> float:
    """Plain H-score: pseudo-inverse of the covariance times the covariance of the class means.

    >>> from sklearn.datasets import load_iris
    >>> round(h_score(*load_iris(return_X_y=True)), 6)
    1.191899
    """
    between = np.cov(class_means(x, y)[y], rowvar=False)
    # The sum over a product of symmetric matrices is the trace of their matrix product.
    return float((np.linalg.pinv(np.cov(x, rowvar=False), rcond=1e-12) * between).sum())


def shrunk_h_score(x: np.ndarray, y: np.ndarray) -> float:
    """H-score with scikit-learn's Ledoit-Wolf covariance.

    >>> from sklearn.datasets import load_iris
    >>> round(shrunk_h_score(*load_iris(return_X_y=True)), 6)
    1.177842
    """
    from sklearn.covariance import LedoitWolf

    shrunk = LedoitWolf().fit(x)
    between = np.cov(class_means(x, y)[y], rowvar=False)
    return float((1 - shrunk.shrinkage_) * (shrunk.precision_ * between).sum())


def gbc(x: np.ndarray, y: np.ndarray, svd_solver: str = "auto") -> float:
    """Gaussian Bhattacharyya coefficient of spherical classes after PCA to 64 dimensions."""
    z = reduced(x, 64, svd_solver)
    means = class_means(z, y)
    variances = [z[y == c].var(axis=0).mean() for c in np.unique(y)]
    variance = np.maximum(variances, 1e-4)
    between = (variance[:, None] + variance) / 2
    squares = ((means[:, None] - means) ** 2).sum(axis=2)
    log_ratio = np.log(between / np.sqrt(np.outer(variance, variance)))
    distance = squares / between / 8 + z.shape[1] / 2 * log_ratio
    return float(-np.exp(-distance)[~np.eye(len(variance), dtype=bool)].sum())


def reduced(x: np.ndarray, components: int, svd_solver: str = "auto") -> np.ndarray:
    """Principal components by scikit-learn, fewer where there are no more."""
    from sklearn.decomposition import PCA

    most = min(len(x) - 1, x.shape[1])
    return PCA(min(components, most), svd_solver=svd_solver, random_state=0).fit_transform(x)


def leep_loop(p: np.ndarray, y: np.ndarray) -> float:
    """LEEP example by example.

    >>> round(leep_loop(np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]), np.array([0, 1, 1])), 6)
    -0.411274
    """
    joint = np.zeros((y.max() + 1, p.shape[1]))
    for row, label in zip(p, y, strict=True):
        joint[label] += row
    conditional = joint / joint.sum(axis=0)
    return float(np.mean([np.log(conditional[c] @ row) for row, c in zip(p, y, strict=True)]))


def leep(p: np.ndarray, y: np.ndarray) -> float:
    """LEEP as two matrix products.

    >>> round(leep(np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]), np.array([0, 1, 1])), 6)
    -0.411274
    """
    joint = np.eye(y.max() + 1)[y].T @ p
    predicted = p @ (joint / joint.sum(axis=0)).T
    return float(np.log(predicted[np.arange(len(y)), y]).mean())


def nce_loop(p: np.ndarray, y: np.ndarray) -> float:
    """NCE source class by source class.

    >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    >>> round(nce_loop(p, np.array([0, 1, 1, 0])), 6)
    -0.477386
    """
    z, total = p.argmax(axis=1), 0.0
    for source in np.unique(z):
        counts = np.unique(y[z == source], return_counts=True)[1]
        total += (counts * np.log(counts / counts.sum())).sum()
    return float(total / len(y))


def nce(p: np.ndarray, y: np.ndarray) -> float:
    """NCE from one table of counts.

    >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    >>> round(nce(p, np.array([0, 1, 1, 0])), 6)
    -0.477386
    """
    classes, sources = y.max() + 1, p.shape[1]
    cells = np.bincount(y * sources + p.argmax(axis=1), minlength=classes * sources)
    joint = cells.reshape(classes, sources)
    label, source = np.nonzero(joint)
    counts = joint[label, source]
    return float((counts * np.log(counts / joint.sum(axis=0)[source])).sum() / len(y))


def parc(x: np.ndarray, y: np.ndarray) -> float:
    """PARC with both N x N correlation matrices, after PCA to 32 dimensions."""
    from scipy.stats import spearmanr

    z = reduced(x, 32)
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    upper = np.triu_indices(len(y), 1)
    features = 1 - np.corrcoef(z)[upper]
    labels = 1 - np.corrcoef(np.eye(y.max() + 1)[y])[upper]
    return float(100 * spearmanr(features, labels)[0])


def lfc(x: np.ndarray, y: np.ndarray) -> float:
    """LFC with both N x N matrices.

    >>> from sklearn.datasets import load_iris
    >>> round(lfc(*load_iris(return_X_y=True)), 4)
    0.1651
    """
    k, same = x @ x.T, np.where(y[:, None] == y, 1.0, -1.0)
    k -= k.mean()
    same -= same.mean()
    return float(np.vdot(k, same) / np.linalg.norm(k) / np.linalg.norm(same))
