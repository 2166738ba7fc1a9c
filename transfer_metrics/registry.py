"""One registry for everything that is looked up by name.

Targets are objects or lazy ``"package.module:attribute"`` strings, so that listing names imports
nothing. Other packages add entries through entry points.
"""

from __future__ import annotations

import fnmatch
import importlib
import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from transfer_metrics.errors import InvalidInputError, UnknownNameError

_T = TypeVar("_T")


class Registry(Generic[_T]):
    """Names to targets, with suggestions for wrong names and wildcards.

    Args:
        kind: what the entries are, in the singular; used in messages.
        targets: the built-in entries, objects or ``"module:attribute"`` strings.
        group: entry point group through which installed packages add entries.

    >>> shapes = Registry("shape", {"square": "math:sqrt"})
    >>> shapes["square"](9.0)
    3.0
    >>> shapes["sqare"]
    Traceback (most recent call last):
    transfer_metrics.errors.UnknownNameError: unknown shape 'sqare'; did you mean 'square'?
    """

    def __init__(
        self, kind: str, targets: Mapping[str, _T | str] | None = None, group: str | None = None
    ) -> None:
        self.kind = kind
        self._targets: dict[str, Any] = dict(targets or {})
        self._group = group

    def register(self, name: str, target: _T | str, *, replace: bool = False) -> None:
        """Add an entry; a name that is taken is refused unless ``replace``."""
        known = self._targets.get(name)
        if known is not None and not isinstance(known, str) and not replace:
            raise InvalidInputError(
                f"{self.kind} {name!r} is registered already; choose another name "
                f"or pass replace=True"
            )
        self._targets[name] = target

    def unregister(self, name: str) -> None:
        """Remove an entry."""
        self[name]
        del self._targets[name]

    def __getitem__(self, name: str) -> _T:
        if name not in self._targets:
            self._load_entry_points()
        try:
            target = self._targets[name]
        except KeyError:
            raise UnknownNameError.of(self.kind, name, self._targets) from None
        if isinstance(target, str):
            target = resolve(target)
            self._targets[name] = target
        return target

    def __contains__(self, name: object) -> bool:
        self._load_entry_points()
        return name in self._targets

    def __iter__(self) -> Iterator[str]:
        self._load_entry_points()
        return iter(sorted(self._targets))

    def __len__(self) -> int:
        self._load_entry_points()
        return len(self._targets)

    def match(self, pattern: str) -> list[str]:
        """Names that match a shell pattern; none is an error."""
        names = [name for name in self if fnmatch.fnmatchcase(name, pattern)]
        if not names:
            raise UnknownNameError.of(self.kind, pattern, self)
        return names

    def _load_entry_points(self) -> None:
        if self._group is None:
            return
        group, self._group = self._group, None
        for point in importlib.metadata.entry_points(group=group):
            self._targets.setdefault(point.name, point.value)


def resolve(target: str) -> Any:
    """Import ``"package.module:attribute"``."""
    module_name, _, attribute = target.partition(":")
    found: Any = importlib.import_module(module_name)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def choose(
    kind: str, name: str, known: Iterable[str], error: type[UnknownNameError] = UnknownNameError
) -> str:
    """A name that is known; an error with suggestions else."""
    known = list(known)
    if name not in known:
        raise error.of(kind, name, known)
    return name
