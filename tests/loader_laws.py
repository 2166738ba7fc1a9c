"""The same table through every loader, and the page docs/laws-loaders.md of what came of it."""

from __future__ import annotations

import functools
import io
import json
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.sources.tasks.task import Task

N = 12
HOLDS = "holds"


@dataclass(frozen=True)
class Table:
    """A table and what it means.

    Attributes:
        inputs: the columns that are read.
        labels: a label per row, as Python has it; None where it is missing.
        kind: of the task.
        classes: in their order.
        targets: numbers of the classes, or targets, of the rows that have a label.
    """

    inputs: dict[str, list[Any]]
    labels: list[Any]
    kind: str
    classes: tuple[str, ...]
    targets: list[float]

    @property
    def is_text(self) -> bool:
        """Whether the inputs are texts."""
        return isinstance(next(iter(self.inputs.values()))[0], str)

    @property
    def kept(self) -> list[int]:
        """Rows that have a label."""
        return [row for row, label in enumerate(self.labels) if label is not None]

    @property
    def frame(self) -> pd.DataFrame:
        """Inputs and labels, which stand in the middle if there are several inputs."""
        frame = pd.DataFrame(self.inputs)
        frame.insert(len(self.inputs) // 2, "Label", pd.Series(self.labels))
        return frame

    @property
    def rows(self) -> list[Any]:
        """The examples that there should be: texts, pairs of texts, or rows of float32."""
        columns = list(self.inputs.values())
        if self.is_text:
            rows = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
            return [rows[row] for row in self.kept]
        return list(np.array(columns, np.float32).T[self.kept])


def of_classes(inputs: dict[str, list[Any]], labels: list[Any]) -> Table:
    """A table of a classification, by the plainest definition of its classes."""
    names = sorted({label for label in labels if label is not None})
    titles = tuple(str(int(n) if isinstance(n, float) else n) for n in names)
    return Table(
        inputs,
        labels,
        "classification",
        titles,
        [names.index(label) for label in labels if label is not None],
    )


def of_targets(inputs: dict[str, list[Any]], labels: list[Any]) -> Table:
    """A table of a regression."""
    return Table(inputs, labels, "regression", (), [x for x in labels if x is not None])


def _tables() -> dict[str, Table]:
    rng = np.random.default_rng(0)
    numbers = {"a": rng.normal(size=N).tolist(), "b": rng.integers(0, 5, N).tolist()}
    mixed = {**numbers, "c": (rng.random(N) < 0.5).tolist()}
    texts = {"review": [f"größer, „{i}“; a|b\tc" for i in range(N)]}
    texts["review"][3:5] = ["None", 'two\nlines, "quoted"']
    pairs = {"premise": list(map(str.title, texts["review"])), "hypothesis": texts["review"]}
    codes = [i % 3 for i in range(N)]
    gap = [None if i == 5 else code for i, code in enumerate(codes)]
    return {
        "numbers, classes by name": of_classes(numbers, [f"k{c}" for c in codes]),
        "whole numbers": of_classes(numbers, codes),
        "whole floats": of_classes(numbers, list(map(float, codes))),
        "booleans": of_classes(mixed, [c == 1 for c in codes]),
        "codes as 007": of_classes(numbers, ["007", "7", "1e3"] * (N // 3)),
        "targets": of_targets(numbers, rng.normal(size=N).tolist()),
        "texts": of_classes(texts, [f"k{c}" for c in codes]),
        "pairs": of_classes(pairs, codes),
        "a label missing": of_classes(numbers, gap),
        "a target missing": of_targets(numbers, [None, *rng.normal(size=N - 1).tolist()]),
        "a name missing": of_classes(texts, [None if g is None else f"k{g}" for g in gap]),
    }


TABLES = _tables()


def _csv(
    folder: Path, table: Table, *, query: str = "", end: str = "csv", encoding: str = "utf-8", **how
) -> Task:
    options = {"index": False, **how}
    frame = table.frame if not options["index"] else table.frame.sample(frac=1, random_state=1)
    frame.to_csv(folder / f"t.{end}", encoding=encoding, **options)
    task = tm.load_task(f"csv:{folder}/t.{end}{query}")
    return _ordered(task, frame, table) if options["index"] else task


def _parquet(folder: Path, table: Table, *, index: bool = False, files: int = 1) -> Task:
    frame = table.frame
    if index:
        frame = frame.sample(frac=1, random_state=1)
    frame = frame.convert_dtypes(dtype_backend="pyarrow")
    for part, rows in enumerate(np.array_split(np.arange(len(frame)), files)):
        frame.iloc[rows].to_parquet(folder / f"train-{part}.parquet", row_group_size=5)
    task = tm.load_task(f"parquet:{folder}")
    return _ordered(task, frame, table) if index else task


def _ordered(task: Task, frame: pd.DataFrame, table: Table) -> Task:
    """The task with its rows back in the order of the table."""
    left = [row for row in frame.index if row in set(table.kept)]
    split = task["train"].rows(np.argsort(left))
    return Task(task.name, task.kind, task.modality, {"train": split}, task.classes)


def _jsonl(folder: Path, table: Table) -> Task:
    columns = {**table.inputs, "Label": table.labels}
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tm.load_task(f"jsonl:{folder}/t.jsonl")


def _examples(table: Table) -> Any:
    columns = list(table.inputs.values())
    if not table.is_text:
        return np.array(columns, np.float64).T
    return np.array(columns[0]) if len(columns) == 1 else np.array(columns).T


def _labels(table: Table) -> np.ndarray:
    """Labels as arrays have them: none as NaN, or as the empty text."""
    if any(isinstance(label, str) for label in table.labels):
        return np.array([label or "" for label in table.labels])
    if None in table.labels:
        return np.array([np.nan if label is None else label for label in table.labels])
    return np.array(table.labels)


def _npz(folder: Path, table: Table) -> Task:
    np.savez(folder / "t.npz", X=_examples(table), y=_labels(table))
    return tm.load_task(f"npz:{folder}/t.npz")


def _npy(folder: Path, table: Table) -> Task:
    np.save(folder / "X.npy", _examples(table))
    np.save(folder / "y.npy", _labels(table)[:, None])
    return tm.load_task(np.load(folder / "X.npy"), np.load(folder / "y.npy"))


def _torch(folder: Path, table: Table) -> Task:
    x, y = _examples(table), _labels(table)
    saved = {
        "X": torch.tensor(x) if x.dtype.kind == "f" else x.tolist(),
        "y": torch.tensor(y) if y.dtype.kind in "bif" else y.tolist(),
    }
    torch.save(saved, folder / "t.pt")
    return tm.load_task(f"torch:{folder}/t.pt")


class _Pairs(torch.utils.data.Dataset):
    def __init__(self, examples: Sequence[Any], labels: Sequence[Any]) -> None:
        self.examples, self.labels_ = examples, labels

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int):
        label = self.labels_[index]
        return self.examples[index], (
            label if isinstance(label, (str, type(None))) else torch.from_numpy(np.array([label]))
        )


def _dataset(folder: Path, table: Table) -> Task:
    x = _examples(table)
    examples = [tuple(e) if isinstance(e, list) else e for e in x.tolist()] if table.is_text else x
    return tm.load_task(_Pairs(examples, table.labels))


def _memory(folder: Path, table: Table) -> Task:
    frame = table.frame
    inputs = frame[list(table.inputs)]
    if not table.is_text:
        return tm.load_task(inputs.astype(float), frame["Label"])
    columns = [inputs[c].tolist() for c in inputs]
    texts = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    return tm.load_task(texts, frame["Label"])


def _hub(folder: Path, table: Table) -> Task:
    import datasets

    columns = {**table.inputs, "Label": table.labels}
    return tm.load_task(datasets.Dataset.from_dict(columns))


def _tar(folder: Path, table: Table) -> Task:
    with tarfile.open(folder / "t.tar", "w") as archive:
        for row in range(len(table.labels)):
            files = {} if table.labels[row] is None else {"cls": str(table.labels[row])}
            if table.is_text and len(table.inputs) == 1:
                files["txt"] = next(iter(table.inputs.values()))[row]
            else:
                files["num"] = "0"
            for end, text in files.items():
                member = tarfile.TarInfo(f"{row:04}.{end}")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
    return tm.load_task(f"tar:{folder}/t.tar")


LOADERS: dict[str, Callable[[Path, Table], Task]] = {
    "CSV with `,`": _csv,
    "CSV with `;`": functools.partial(_csv, sep=";"),
    "CSV with tabs": functools.partial(_csv, sep="\t"),
    "CSV with `\\|`": functools.partial(_csv, sep="|"),
    "TSV": functools.partial(_csv, sep="\t", end="tsv"),
    "CSV with `;` and decimal commas": functools.partial(_csv, sep=";", decimal=","),
    "CSV, UTF-8 with BOM": functools.partial(_csv, encoding="utf-8-sig"),
    "CSV, UTF-16": functools.partial(_csv, encoding="utf-16"),
    "CSV, lines end in CRLF": functools.partial(_csv, lineterminator="\r\n"),
    "CSV, all quoted": functools.partial(_csv, quoting=1),
    "CSV, `NA` for none": functools.partial(_csv, na_rep="NA"),
    "CSV, shuffled, with its index": functools.partial(_csv, index=True),
    "CSV, shuffled, index named `id`": functools.partial(_csv, index=True, index_label="id"),
    "Parquet": _parquet,
    "Parquet, shuffled, with its index": functools.partial(_parquet, index=True),
    "Parquet in three files": functools.partial(_parquet, files=3),
    "JSON lines": _jsonl,
    "npz": _npz,
    "npy, labels (N, 1)": _npy,
    "`torch.save`": _torch,
    "torch `Dataset`": _dataset,
    "pandas in memory": _memory,
    "`datasets` in memory": _hub,
    "tar": _tar,
}


def verdict(loader: str, table: Table) -> str:
    """Whether a loader reads a table as what it is, or why it refuses.

    Raises:
        AssertionError: it reads something else.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", TransferMetricsWarning)
        try:
            task = LOADERS[loader](Path(folder), table)
        except InvalidInputError as error:
            reason = str(error).replace(f"{folder}/", "").partition("': ")[2] or str(error)
            return f"refused: {reason.partition(';')[0]}".replace("|", "\\|").replace("\n", " ")
        check(task, table)
        left = [w for w in told if "left out" in str(w.message)]
        assert bool(left) == (None in table.labels), "what is left out is not said"
    return HOLDS


def check(task: Task, table: Table) -> None:
    """Compare a task with what the table means.

    Raises:
        AssertionError: they differ.
    """
    assert (task.kind, task.classes) == (table.kind, table.classes)
    assert np.allclose(task["train"].labels, table.targets, rtol=1e-14, atol=0)
    examples = list(task["train"].examples)
    assert len(examples) == len(table.rows)
    for found, expected in zip(examples, table.rows, strict=True):
        if table.is_text:
            assert (found if isinstance(found, str) else tuple(found)) == expected
        else:
            assert np.array_equal(found, expected)


@dataclass
class Page:
    """The page of verdicts.

    Attributes:
        verdicts: by loader and table.
    """

    verdicts: dict[tuple[str, str], str] = field(default_factory=dict)

    def text(self) -> str:
        """The whole page."""
        lines = [f"| loader | {' | '.join(TABLES)} |", "|---" * (len(TABLES) + 1) + "|"]
        for loader in LOADERS:
            cells = [self.verdicts[loader, table] for table in TABLES]
            lines.append(f"| {loader} | {' | '.join(cells)} |")
        return TEXT.format(table="\n".join(lines), loaders=len(LOADERS), tables=len(TABLES))


TEXT = """\
# The same table through every loader

Written by the tests: `pytest tests/test_loader_laws.py --write-docs`.

{tables} small tables are written in {loaders} ways and read back. *holds*: the task has the kind,
the classes in their order, the labels and the examples that the table has by definition, and what
was left out was said; *refused*: one sentence says why. The label is the column `Label`, in the
middle where there are several inputs. [Labels](labels.md) has the rules that make it so.

{table}
"""
