"""Names of models and tasks: what may be one, and how equal ones are told apart."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from transfer_metrics.errors import InvalidInputError

_LONGEST = 160
"""Characters of a name that somebody gives; so many are shown whole."""

_NUMBER = re.compile(r" \(\d+\)$")


def short_id(fingerprint: str) -> str:
    """The digits of a fingerprint that stand for it in a record.

    >>> short_id("0123456789abcdef")
    '0123456789ab'
    """
    return fingerprint[:12]


def checked_name(name: Any, what: str) -> str:
    """A name that was given to ``what``, without space around it.

    One that is no text, empty, longer than ``_LONGEST`` or cannot be seen is refused.

    >>> checked_name(" small ", "a model")
    'small'
    """
    if not isinstance(name, str):
        raise InvalidInputError(
            f"the name of {what} is {name!r:.60}, a {type(name).__name__}; give a text"
        )
    name = name.strip()
    if not name or not name.isprintable():
        reason = "has letters that cannot be printed" if name else "is empty"
        raise InvalidInputError(
            f"the name {name!r:.60} of {what} {reason}; give letters that can be seen"
        )
    if len(name) > _LONGEST:
        raise InvalidInputError(
            f"the name {name[:40]!r}… of {what} has {len(name)} characters; give at most {_LONGEST}"
        )
    return name


def bare_name(name: str) -> str:
    """The name without its number.

    >>> bare_name("net (2)")
    'net'
    """
    return _NUMBER.sub("", name)


class Names:
    """Names that are taken, and new ones beside them.

    >>> names = Names(["net", "net (2)"])
    >>> names.free("other"), names.free("net"), names.free("net (2)")
    ('other', 'net (3)', 'net (4)')
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    def free(self, name: str) -> str:
        """The name, with a number after it where it is taken; it is taken then."""
        base = bare_name(name)
        number = self._next.get(base, 2)
        while name in self._taken:
            name, number = f"{base} ({number})", number + 1
            self._next[base] = number
        self._taken.add(name)
        return name


def told_apart(names: Iterable[str]) -> list[str]:
    """The names in their order, the later ones of equal ones with a number after them.

    >>> told_apart(["net", "other", "net", "net (2)", "net"])
    ['net', 'other', 'net (3)', 'net (2)', 'net (4)']
    """
    listed = list(names)
    known, met, found = Names(listed), set[str](), []
    for name in listed:
        found.append(known.free(name) if name in met else name)
        met.add(name)
    return found
