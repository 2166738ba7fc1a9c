"""Heads by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.registry import Registry, choose
from transfer_metrics.syntax import call_options

if TYPE_CHECKING:
    from transfer_metrics.heads.base import Head

HEADS: Registry[type[Head]] = Registry(
    "head",
    {
        "finetune": "transfer_metrics.heads.finetune:FineTune",
        "h2t_ft": "transfer_metrics.heads.h2t_ft:H2TFT",
        "head2toe": "transfer_metrics.heads.head2toe:Head2Toe",
        "head2toe_cv": "transfer_metrics.heads.head2toe_cv:Head2ToeCV",
        "linear_probe": "transfer_metrics.heads.linear:LinearProbe",
        "lpft": "transfer_metrics.heads.finetune:LPFT",
    },
    group="transfer_metrics.heads",
)
"""Classes of heads; the name is also the class's ``name``."""


def resolve_head(spec: Any) -> Head:
    """Make a head from its name, with options if wanted.

    Args:
        spec: a name, such as ``"lpft"`` or ``"lpft(epochs=5)"``; a class; or a head, which is
            returned as it is.

    Raises:
        UnknownNameError: no such head or option; with suggestions.
        InvalidInputError: the options cannot be read.

    >>> resolve_head("lpft(epochs=5)").epochs
    5
    """
    from transfer_metrics.heads.base import Head

    if isinstance(spec, type) and issubclass(spec, Head):
        return spec()
    if isinstance(spec, Head):
        return spec
    if not isinstance(spec, str):
        raise InvalidInputError(
            f"a head is a {type(spec).__name__}; give a name such as 'linear_probe', or a head"
        )
    name, bracket, rest = spec.strip().partition("(")
    known = HEADS[name.strip()]
    options = call_options(bracket + rest, f"head {name!r}") if bracket else {}
    for option in options:
        choose(f"option of head {name!r}:", option, known().get_params(deep=False))
    return known(**options)
