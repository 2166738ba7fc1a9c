"""Which examples make a part of a data set: nested samples, and shares held out."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from transfer_metrics.errors import InvalidInputError

SEED = 0


def nested_order(
    labels: np.ndarray, num_classes: int, seed: int = SEED, *, balanced: bool = False
) -> np.ndarray:
    """An order of the examples of which every beginning is a random sample fair to the classes.

    Every class has one example as soon as s, the length of the beginning, reaches the number C of
    classes. Stratified, a class of which there are c of n examples has at most one more than
    ``c s / n``, and at most ``C c / n`` fewer, what the first examples of the rare classes
    displace. Balanced, no two classes differ by more than one until the smaller is used up, after
    which the others fill its places. Regression targets are shuffled. The order depends on the
    labels, their order and the seed only.

    Args:
        labels: class numbers (n,), or targets, of which only the number matters.
        num_classes: number of classes, 0 for regression.
        seed: of the random choice.
        balanced: equal numbers of every class rather than their shares.

    Returns:
        (n,) positions.

    Cost: O(n log n), and O(n) for each class.

    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> [np.bincount(labels[nested_order(labels, 2)[:s]]).tolist() for s in (2, 3, 6)]
    [[1, 1], [2, 1], [4, 2]]
    >>> np.bincount(labels[nested_order(labels, 2, balanced=True)[:5]]).tolist()
    [3, 2]
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    if not num_classes:
        return shuffled
    turn = np.empty(len(labels))
    for c in range(num_classes):
        members = shuffled[labels[shuffled] == c]
        turn[members] = np.arange(len(members)) / (1 if balanced else max(len(members), 1))
    # Stable, so that examples whose turn comes together stay shuffled.
    return shuffled[np.argsort(turn[shuffled], kind="stable")]


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
            f"nothing can be held out: none of {len(counts)} class(es) has two "
            f"examples among {len(labels)} sample(s); add examples, or give what is to be held out "
            f"as a split of its own, or as validation= to fit"
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
