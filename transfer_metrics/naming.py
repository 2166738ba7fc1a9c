"""Names of models and tasks: what may be one, and how they are shortened and told apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import fields
from typing import Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.untrusted import shortened

_LONGEST = 160
"""Characters of a name that somebody gives; so many are shown whole."""

_NUMBER = re.compile(r" \(\d+\)$")
# A path on this machine after its source, if any: "hf:/home/me/nets/", "~/nets/".
_FOLDERS = re.compile(r"(?:[\w.+-]+:)?(?=[/~.])[^?]*/")
_FRONT, _BACK = ":/", "-_.?&"
_MOST = 80


def short_id(fingerprint: str) -> str:
    """The digits of a fingerprint that stand for it in a record."""
    return fingerprint[:12]


def a_type(value: Any) -> str:
    """The type of a value, with its article.

    >>> a_type(3), a_type("three"), a_type(None)
    ('an int', 'a str', 'a NoneType')
    """
    name = type(value).__name__
    return f"{'an' if name.lower().startswith(('a', 'e', 'i', 'o', 'nd')) else 'a'} {name}"


def checked_name(name: Any, what: str) -> str:
    """A name that was given to ``what``, without space around it.

    One that is no text, empty, longer than ``_LONGEST`` or cannot be seen is refused.
    """
    if not isinstance(name, str):
        raise InvalidInputError(f"the name of {what} is {name!r:.60}, {a_type(name)}; give a text")
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


def plain_name(name: str) -> str:
    """A name of a column or folder as it is compared: without case, spaces and signs."""
    return re.sub(r"[\W_]+", "", name).casefold()


def bare_name(name: str) -> str:
    """The name without its number."""
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


def short_names(names: Iterable[object], longest: int = 30, limit: int | None = None) -> list[str]:
    """Names without what does not tell them apart, where one is longer than ``longest``.

    What all begin with is left out up to a colon or slash, then what all end with from a mark on.
    An ellipsis stands for the folders that the paths of some share, and for the middle of what
    still has more than ``limit`` letters (by default as many). Different names stay different,
    equal ones equal.

    >>> short_names(["hf:/home/me/nets/org/vit-base-patch16", "hf:/home/me/nets/org/deit-patch16"])
    ['vit-base-patch16', 'deit-patch16']
    >>> short_names(["hf:/home/me/checkpoints/org/convnextv2-base", "timm:vit"])
    ['hf:…/convnextv2-base', 'timm:vit']
    >>> short_names(["hf:org/one-of-many-models-patch16-224", "hf:org/two"], longest=12)
    ['one-of…6-224', 'two']
    >>> short_names(["zoo:a", "zoo:b"])
    ['zoo:a', 'zoo:b']
    """
    texts = [str(name) for name in names]
    if all(len(text) <= longest for text in texts):
        return texts
    whole = list(dict.fromkeys(texts))
    cut = _without_folders(_without_front(whole))
    if len(whole) > 1 and max(map(len, cut)) > longest:
        cut = _without_back(cut)
    limit = limit or longest
    for most in range(limit, max(limit + 1, _MOST), 6):
        short = [shortened(text, most) for text in cut]
        if len(set(short)) == len(whole):
            break
    known = dict(zip(whole, told_apart(short), strict=True))
    return [known[text] for text in texts]


def _common(texts: list[str]) -> str:
    """What all begin with, which is what the first and the last in order do."""
    first, last = min(texts), max(texts)
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((i for i, (a, b) in pairs if a != b), len(first))]


def _without_front(names: list[str]) -> list[str]:
    """Different names without what all begin with; of one alone, what it lies in."""
    front = _common(names) if len(names) > 1 else names[0].partition("?")[0]
    start = max(front.rfind(mark) for mark in _FRONT) + 1
    return [name[start:] or name for name in names]


def _without_back(names: list[str]) -> list[str]:
    """Different names without what all end with, which is no folder."""
    back = _common([name[::-1] for name in names])[::-1].rpartition("/")[2]
    end = len(back) - min((i for i, mark in enumerate(back) if mark in _BACK), default=len(back))
    is_all = any(len(name) <= end or name[-end - 1] in "/:" for name in names)
    return names if not end or is_all else [name[:-end] for name in names]


def _without_folders(names: list[str]) -> list[str]:
    """Names whose paths lack the folders that those of one source share."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if found := _FOLDERS.match(name):
            groups.setdefault(name[: found.end()].partition("/")[0], []).append(found.group())
    shared = {source: _common(own) for source, own in groups.items()}
    cut = []
    for name in names:
        found = _FOLDERS.match(name)
        source = name.partition("/")[0]
        folders = shared.get(source, "")
        folders = folders[: folders.rfind("/") + 1]
        is_long = found is not None and len(folders) - len(source) > 2
        cut.append(f"{source.rstrip('~.')}…/{name[len(folders) :]}" if is_long else name)
    return cut


def brief(value: Any) -> str:
    """A dataclass on one line: arrays by their shapes, collections by their sizes, what is set.

    >>> from transfer_metrics import ClassMoments
    >>> ClassMoments.from_batch([[0.0], [1.0]], [0, 1], num_classes=2)  # doctest: +ELLIPSIS
    ClassMoments(counts=<2>, means=<2×1>, ...)
    """
    told = []
    for field in fields(value):
        found = getattr(value, field.name)
        if found is None or (isinstance(found, str) and not found) or not field.repr:
            continue
        if hasattr(found, "shape") and hasattr(found, "dtype"):
            text = f"<{'×'.join(map(str, found.shape))}>"
        elif isinstance(found, (str, int, float)):
            text = f"{found!r:.80}"
        elif isinstance(found, (Mapping, Sequence, Set)):
            text = f"<{len(found)}>"
        else:
            text = f"<{type(found).__name__}>"
        told.append(f"{field.name}={text}")
    return f"{type(value).__name__}({', '.join(told)})"
