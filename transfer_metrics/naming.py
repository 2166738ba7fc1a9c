"""Names of models and tasks: what may be one, and how equal ones are told apart."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from typing import Any

from transfer_metrics.errors import InvalidInputError

LONGEST = 160
"""Characters of a name that somebody gives; so many are shown whole."""

_NUMBER = re.compile(r" \(\d+\)$")


def short_id(fingerprint: str) -> str:
    """The digits of a fingerprint that stand for it in a record.

    >>> short_id("0123456789abcdef")
    '0123456789ab'
    """
    return fingerprint[:12]


def checked_name(name: Any, what: str) -> str:
    """A name that was given, without space around it.

    Args:
        name: what was given.
        what: what is called so, for the message.

    Raises:
        InvalidInputError: it is no text, empty, longer than ``LONGEST``, or cannot be seen.

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
    if len(name) > LONGEST:
        raise InvalidInputError(
            f"the name {name[:40]!r}… of {what} has {len(name)} characters; give at most {LONGEST}"
        )
    return name


def free_name(name: str, taken: Container[str]) -> str:
    """The name, with a number after it where it is taken.

    >>> free_name("net", {"net", "net (2)"}), free_name("net (2)", {"net (2)"})
    ('net (3)', 'net (3)')
    """
    base, number, found = bare_name(name), 2, name
    while found in taken:
        found, number = f"{base} ({number})", number + 1
    return found


def bare_name(name: str) -> str:
    """The name without its number.

    >>> bare_name("net (2)")
    'net'
    """
    return _NUMBER.sub("", name)


def told_apart(names: Iterable[str]) -> list[str]:
    """The names in their order, the later ones of equal ones with a number after them.

    >>> told_apart(["net", "other", "net", "net (2)", "net"])
    ['net', 'other', 'net (3)', 'net (2)', 'net (4)']
    """
    listed = list(names)
    once, taken = set[str](), set(listed)
    found = []
    for name in listed:
        own = free_name(name, taken) if name in once else name
        once.add(own)
        taken.add(own)
        found.append(own)
    return found
