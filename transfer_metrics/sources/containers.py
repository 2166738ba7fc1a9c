"""Containers of numbers that are not read as they are, since something in them would be lost."""

from __future__ import annotations

from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError


def check_container(values: Any, where: str) -> None:
    """Refuse sparse matrices, and masked arrays of which the mask would be left out.

    >>> check_container(np.ma.masked_array([1.0, 2.0], mask=[False, True]), "X")
    Traceback (most recent call last):
    transfer_metrics.errors.InvalidInputError: X: 1 of 2 numbers are masked, the first in row 1; \
fill them (X.filled(0)), or drop those rows

    Raises:
        InvalidInputError: it is one of these.
    """
    if hasattr(values, "toarray") and hasattr(values, "nnz"):
        raise InvalidInputError(f"{where}: a sparse matrix is not read; give X.toarray()")
    if np.ma.is_masked(values):
        mask = np.ma.getmaskarray(values)
        row = int(np.argwhere(mask)[0][0])
        raise InvalidInputError(
            f"{where}: {int(mask.sum())} of {mask.size} numbers are masked, the first in row "
            f"{row}; fill them (X.filled(0)), or drop those rows"
        )
