"""Measures of the package as a house: files, lines, names, circles, and one walk through it.

    python -m tests.house_measures

``tests/test_house.py`` holds the package to the rules that these measures are read from.
"""

from __future__ import annotations

import ast
import collections
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ROOMS = (
    *("sources", "features", "statistics", "metrics", "results", "ranking"),
    *("selection", "heads", "report", "evidence", "cli"),
)
"""Each imports from those before it; modules at the top of the package come before all."""


@dataclass
class Module:
    """A file of the package, a test or a script: what it imports and what it mentions.

    Attributes:
        name: dotted name.
        path: where it is.
        tree: its syntax tree.
        imports: line, module as written out in full, and the name taken from it, if one is.
    """

    name: str
    path: Path
    tree: ast.Module = field(repr=False)
    imports: list[tuple[int, str, str]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path, root: Path) -> Module:
        """Parse a file below the root."""
        parts = path.relative_to(root).with_suffix("").parts
        inside = parts[:-1]
        name = ".".join(inside if parts[-1] == "__init__" else parts)
        found = cls(name, path, ast.parse(path.read_text("utf-8")))
        for node in found.nodes:
            if isinstance(node, ast.Import):
                found.imports += [(node.lineno, alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = list(inside[: len(inside) - node.level + 1]) if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                found.imports += [(node.lineno, base, alias.name) for alias in node.names]
        return found

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Everything in its tree."""
        return list(ast.walk(self.tree))

    @property
    def lines(self) -> int:
        """How many."""
        return self.path.read_text("utf-8").count("\n")

    @cached_property
    def public(self) -> list[str]:
        """Names at its top level without an underscore before them."""
        found = []
        for node in self.tree.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.append(node.name)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found += [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
        return [name for name in dict.fromkeys(found) if not name.startswith("_")]

    @cached_property
    def handed_out(self) -> set[str]:
        """Names in what its public functions are said to return."""
        functions = [
            n for n in self.nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
        ]
        returns = [f.returns for f in functions if f.returns and not f.name.startswith("_")]
        return {n.id for r in returns for n in ast.walk(r) if isinstance(n, ast.Name)}

    @cached_property
    def strings(self) -> set[str]:
        """Texts in it that are names: alone, with dots, or as ``module:name``."""
        return {
            node.value
            for node in self.nodes
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"[\w.:]+", node.value)
        }

    def mentions(self, modules: Mapping[str, Module]) -> set[tuple[str, str]]:
        """Modules and their names that this file mentions: imported, as attributes, as texts."""
        known = set(modules)
        found = {(base, name) for _, base, name in self.imports if base in known and name}
        called: dict[str, str] = {}
        attributes: set[tuple[str, str]] = set()
        for node in self.nodes:
            if isinstance(node, ast.Import):
                called |= {a.asname or a.name: a.name for a in node.names if a.name in known}
            elif isinstance(node, ast.ImportFrom):
                base = next(b for n, b, _ in self.imports if n == node.lineno)
                whole = {a.asname or a.name: f"{base}.{a.name}" for a in node.names}
                called |= {name: module for name, module in whole.items() if module in known}
            elif isinstance(node, ast.Attribute) and isinstance(
                node.value, (ast.Name, ast.Attribute)
            ):
                attributes.add((_dotted(node.value), node.attr))
        found |= {(called[of], name) for of, name in attributes if of in called}
        # As in `monkeypatch.setattr(module, "NAME", …)`.
        for module in called.values():
            found |= {(module, text) for text in self.strings.intersection(modules[module].public)}
        for text in self.strings:
            parts = re.split(r"[.:]", text)
            for k in range(1, len(parts)):
                if ".".join(parts[:k]) in known:
                    found.add((".".join(parts[:k]), parts[k]))
        return found


def _dotted(node: ast.expr) -> str:
    """``a.b.c`` as it stands there; nothing for other expressions."""
    if isinstance(node, ast.Attribute):
        above = _dotted(node.value)
        return f"{above}.{node.attr}" if above else ""
    return node.id if isinstance(node, ast.Name) else ""


class House:
    """A package below a root, with the tests, scripts and documents beside it."""

    def __init__(self, root: Path = ROOT, package: str = "transfer_metrics") -> None:
        self.root, self.package = root, package
        files = sorted((root / package).rglob("*.py"))
        self.modules = {m.name: m for m in (Module.read(path, root) for path in files)}

    @cached_property
    def beside(self) -> list[Module]:
        """Tests and scripts."""
        files = [*(self.root / "tests").rglob("*.py"), *(self.root / "data").rglob("*.py")]
        return [Module.read(path, self.root) for path in sorted(files)]

    @cached_property
    def documents(self) -> set[str]:
        """Words in the code of documents, notebooks and settings."""
        words: set[str] = set()
        for pattern in ("*.md", "docs/**/*.md", "data/*.md", "notebooks/*.ipynb", "setup.cfg"):
            for path in self.root.glob(pattern):
                if path.name != "CHANGELOG.md":
                    text = path.read_text("utf-8")
                    if path.suffix == ".md":
                        text = "\n".join(re.findall(r"`[^`]*`|^    .*$", text, re.MULTILINE))
                    words |= set(re.findall(r"\w+", text))
        return words

    def targets(self, module: Module) -> Iterator[tuple[int, str]]:
        """Modules of the package that one imports, with the lines; lazily and for types too."""
        for line, base, name in module.imports:
            for target in (f"{base}.{name}", base):
                if target in self.modules and target != module.name:
                    yield line, target
                    break

    def place(self, name: str) -> int:
        """How far to the right a module stands: 0 at the top of the package, then by rooms."""
        parts = name.split(".")
        if parts[1:] == ["__main__"]:
            return len(ROOMS) + 1
        folder = (self.root / Path(*parts[:2])).is_dir()
        return ROOMS.index(parts[1]) + 1 if len(parts) > 1 and folder else 0

    @cached_property
    def circles(self) -> list[list[str]]:
        """Groups of modules that import each other in the end, largest first."""
        edges = {name: {t for _, t in self.targets(m)} for name, m in self.modules.items()}
        found, reached = [], {name: _reached(name, edges) for name in edges}
        left = set(edges)
        while left:
            name = min(left)
            group = {name, *(o for o in reached[name] if name in reached[o])}
            left -= group
            if len(group) > 1:
                found.append(sorted(group))
        return sorted(found, key=lambda group: (-len(group), group))

    def unused(self, kept: Iterable[str] = ()) -> list[str]:
        """Public names, as ``module:name``, that nobody needs.

        No other file mentions them, no public function returns them, and they are not ``kept``.
        """
        used: set[tuple[str, str]] = set()
        for module in [*self.modules.values(), *self.beside]:
            used |= {one for one in module.mentions(self.modules) if one[0] != module.name}
        skipped = {*kept, *self.documents}
        return [
            f"{module.name}:{name}"
            for module in self.modules.values()
            for name in module.public
            if (module.name, name) not in used
            and name not in skipped
            and name not in module.handed_out
        ]


def _reached(start: str, edges: dict[str, set[str]]) -> set[str]:
    found, left = set(), [start]
    while left:
        for target in edges[left.pop()] - found:
            found.add(target)
            left.append(target)
    return found


def walked(run: Callable[[], object], follows: Callable[[Any], bool]) -> list[str]:
    """Files of the package whose functions are handed a value, in the order of the calls.

    A function is handed it as an argument, alone or in a field of a dataclass; methods of what
    holds it are not counted.
    """
    package, files = str(ROOT / "transfer_metrics"), []

    def holds(value: Any) -> bool:
        if follows(value):
            return True
        fields = getattr(type(value), "__dataclass_fields__", ())
        return any(follows(getattr(value, name, None)) for name in fields)

    def note(frame: Any, event: str, arg: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(package):
            return
        given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(holds(frame.f_locals.get(name)) for name in given if name != "self"):
            file = code.co_filename.removeprefix(package).strip("/")
            if files[-1:] != [file]:
                files.append(file)

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return files


def walk_of_a_task() -> list[str]:
    """The way of the task through ``rank_models``: a serial ranking that computes everything."""
    import tempfile

    import numpy as np

    import transfer_metrics as tm

    rng = np.random.default_rng(0)
    data = rng.random((40, 3, 32, 32), dtype=np.float32), np.arange(40) % 2

    def ranked(cache: str) -> None:
        tm.rank_models("zoo:vit-mnist", data, "knn", cache_dir=cache, progress=False)

    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        ranked(first)  # modules that are imported on the way hand over nothing
        return walked(
            lambda: ranked(second), lambda value: value is data or isinstance(value, tm.Task)
        )


def returns(files: Iterable[str]) -> int:
    """How often a walk comes back to where it has been.

    >>> returns(["a", "b", "a", "c", "b"])
    2
    """
    seen: set[str] = set()
    count = 0
    for file in files:
        count += file in seen
        seen.add(file)
    return count


def main() -> None:
    """Print the measures."""
    house = House()
    lines = {m.name: m.lines for m in house.modules.values()}
    names = sum(len(m.public) for m in house.modules.values())
    print(f"{len(lines)} files, {sum(lines.values())} lines, {names} public names")
    print(f"median {statistics.median(lines.values()):.0f} lines of a file")
    for room in ("", *ROOMS):
        inside = [n for n in lines if house.place(n) == (ROOMS.index(room) + 1 if room else 0)]
        count, total = len(inside), sum(lines[n] for n in inside)
        print(f"  {room or 'at the top':<12}{count:>4} files{total:>7} lines")
    short = [n for n, m in house.modules.items() if lines[n] < 70 and m.path.stem != "__init__"]
    print(f"below 70 lines: {', '.join(short) or 'none'}")
    print(f"above 400 lines: {', '.join(n for n in lines if lines[n] > 400) or 'none'}")
    print(f"circles: {', '.join(str(len(c)) for c in house.circles) or 'none'}")
    stems = collections.Counter(m.path.stem for m in house.modules.values())
    again = [s for s, n in stems.items() if n > 1 and s not in ("__init__", "base")]
    print(f"file names given twice: {', '.join(again) or 'none'}")
    walk = walk_of_a_task()
    print(f"rank_models:task goes through {len(set(walk))} files with {returns(walk)} returns:")
    print(f"  {' > '.join(walk)}")


if __name__ == "__main__":
    main()
