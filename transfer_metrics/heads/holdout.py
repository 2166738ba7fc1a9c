"""Holding out examples for validation."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from transfer_metrics.errors import InvalidInputError


def stratified_holdout(
    labels: np.ndarray, fraction: float, seed: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Split positions at random so that each class gives the same share.

    The total is rounded, the classes with the largest remainders give the rest, and every class
    keeps at least one example.

    Args:
        labels: (N,).
        fraction: share to hold out, in (0, 1).
        seed: of the random choice.

    Returns:
        Positions that stay and positions held out, both ascending.

    Raises:
        InvalidInputError: the fraction is out of range, or no class has two examples.

    >>> stay, out = stratified_holdout(np.array([0] * 8 + [1] * 2), 0.2, seed=0)
    >>> len(stay), len(out)
    (8, 2)
    """
    check_share(fraction)
    random = check_random_state(seed)
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    exact = counts * fraction
    take = np.minimum(np.floor(exact).astype(int), counts - 1)
    total = max(round(len(labels) * fraction), 1)
    for code in np.lexsort((random.permutation(len(counts)), take - exact)):
        if take.sum() < total and take[code] < counts[code] - 1:
            take[code] += 1
    if not take.sum():
        raise InvalidInputError(
            f"nothing can be held out for validation: none of {len(counts)} class(es) has two "
            f"examples among {len(labels)} sample(s); pass validation= to fit"
        )
    out = np.concatenate(
        [random.permutation(np.flatnonzero(codes == c))[:k] for c, k in enumerate(take)]
    )
    held = np.zeros(len(labels), bool)
    held[out] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def check_share(validation: Any) -> None:
    """Refuse a head that would make its choices on the data it was fitted to.

    Raises:
        InvalidInputError: there is no share to hold out.
    """
    if not isinstance(validation, (int, float)) or not 0 < validation < 1:
        raise InvalidInputError(f"validation={validation!r}; use a share between 0 and 1, as 0.2")
