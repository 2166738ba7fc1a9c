"""Tasks from what is in memory: arrays, lists, tensors and torch datasets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, TransferMetricsError, about, warn
from transfer_metrics.naming import a_type
from transfer_metrics.sources.example import (
    FloatMaps,
    Modality,
    Sound,
    as_sound,
    example_bytes,
    example_modality,
    is_pair,
    is_sound,
    rate_of,
)
from transfer_metrics.sources.preprocess import array_to_image, channels_last
from transfer_metrics.sources.tasks.label_values import (
    as_array,
    as_numbers,
    check_container,
    from_tensor,
    is_none,
    written_numbers,
)
from transfer_metrics.sources.tasks.paths import FILE_SUFFIXES
from transfer_metrics.sources.tasks.sequences import Examples, Files, ImageArray, Rows
from transfer_metrics.untrusted import visible

_READ_TWICE = 8
"""Examples of a dataset of which it is seen whether they are the same when read again."""
_LOST = 0.01
"""Share of the range of a column that rounding may take."""
_COMPARED = 64
"""Labels of a dataset that are compared with those that it returns."""


def _item(items: Any, index: int, where: str) -> Any:
    """One item of what somebody else wrote, or an error that says which cannot be read."""
    try:
        return items[index]
    except TransferMetricsError:
        raise
    except Exception as error:
        why = ": ".join(filter(None, (type(error).__name__, str(error))))
        cure = "repair what returns it, or leave it out"
        if isinstance(error, IndexError) and hasattr(items, "__len__"):
            cure = f"correct its __len__, which is {len(items)}, or {cure}"
        raise InvalidInputError(
            f"{where}: example {index} cannot be read ({why}); {cure}"
        ) from error


@dataclass(frozen=True, eq=False)
class _Foreign(Examples):
    """Examples of somebody else's sequence, which may be of pairs (x, y)."""

    items: Any
    where: str
    modality: Modality
    pairs: bool = False
    rate: int | None = None
    kept = False

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def maps(self) -> FloatMaps | None:  # type: ignore[override]
        """How some of them read, from the first to the last."""
        if self.modality != "tensor":
            return None
        found = []
        for index in np.linspace(0, len(self) - 1, min(len(self), _COMPARED)).astype(int).tolist():
            with suppress(InvalidInputError):  # which is told of when it is used
                found.append(self._converted(index))
            if found and not FloatMaps.of(found[:1]):
                return None
        return FloatMaps.of(found)

    def read(self, index: int) -> Any:
        example = self._converted(index)
        return self.maps.example(example) if self.maps else example

    def _converted(self, index: int) -> Any:
        item = _item(self.items, index, self.where)
        try:
            example = as_example(item[0]) if self.pairs else item
            if self.rate is not None:
                return as_sound({"array": example, "sampling_rate": self.rate})
            return example
        except InvalidInputError as error:
            raise InvalidInputError(f"{self.where}, example {index}: {error}") from error


def from_dataset(dataset: Any, where: str) -> tuple[Sequence[Any], Any, Sequence[str] | None]:
    """Examples, labels and names of classes of a map-style dataset of (x, y) pairs.

    Labels are those that torchvision's data sets keep, if up to ``_COMPARED`` of them, every class
    among these, are as they are returned; otherwise every pair is fetched once. The names are
    ``dataset.classes``, unless other labels are returned than kept.
    """
    if hasattr(dataset, "iloc") and hasattr(dataset, "columns"):
        label = dataset.columns[-1]
        raise InvalidInputError(
            f"{where}: a data frame does not say which column is the label; give the labels apart, "
            f"such as load_task(frame.drop(columns={label!r}), frame[{label!r}]), or the path of a "
            f"CSV file, 'csv:FILE?label={label}'"
        )
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        told, cure = (
            "no length and no items",
            "a map-style dataset, or lists: load_task(examples, labels)",
        )
        if hasattr(dataset, "dataset"):
            told, cure = "no items by number", "what it loads, loader.dataset, without augmentation"
        raise InvalidInputError(f"{where}: {a_type(dataset)} has {told}; give {cure}")
    if not len(dataset):
        return [], [], None
    first = _pair(dataset, 0, where)
    kept = _kept_labels(dataset)
    names = _class_names(dataset, where)
    if kept is None or not _agree(kept, dataset, first[1], where):
        labels = as_array([_pair(dataset, i, where)[1] for i in range(len(dataset))])
        names = None if kept is not None else names
        kept = labels
    example = as_example(first[0])
    given = example_modality(example)
    rate = rate_of(dataset, example) if given == "tensor" else None
    for index in np.linspace(0, len(dataset) - 1, min(len(dataset), _READ_TWICE)).astype(int):
        with suppress(InvalidInputError):  # of one that cannot be read, told of when it is used
            once, again = (as_example(_pair(dataset, int(index), where)[0]) for _ in range(2))
            if example_bytes(once) != example_bytes(again):
                warn(
                    f"{where}: example {index} is another one each time it is read, as by a "
                    f"transform that augments, so that scores change with every pass; give the "
                    f"data set with the transform of evaluation"
                )
                break
    modality = given if rate is None else "audio"
    return _Foreign(dataset, where, modality, pairs=True, rate=rate), kept, names


def _class_names(dataset: Any, where: str) -> list[str] | None:
    """Names of the classes that a dataset numbers, also one cut out of others or put together."""
    parent, parts = (getattr(dataset, name, None) for name in ("dataset", "datasets"))
    if parent is not None and hasattr(dataset, "indices"):
        return _class_names(parent, where)
    if isinstance(parts, (list, tuple)) and parts:
        named = [_class_names(part, where) for part in parts]
        if any(names != named[0] for names in named):
            first, other = named[0], next(names for names in named if names != named[0])
            raise InvalidInputError(
                f"{where}: the data sets that are put together number other classes: "
                f"{_listed(first)} and {_listed(other)}; give all of them the same, such as by "
                f"target_transform, or put them into one folder"
            )
        return named[0]
    names = getattr(dataset, "classes", None)
    if getattr(dataset, "target_transform", None) is not None:
        return None
    is_list = isinstance(names, (list, tuple)) and all(isinstance(c, str) for c in names)
    return list(names or ()) if is_list else None


def _listed(names: Sequence[str] | None) -> str:
    return "without names" if names is None else visible(", ".join(names))


def _kept_labels(dataset: Any) -> np.ndarray | None:
    """Labels that a torch dataset keeps beside its examples, also one cut out of another."""
    rows, parent = getattr(dataset, "indices", None), getattr(dataset, "dataset", None)
    if rows is not None and parent is not None:
        whole = _kept_labels(parent)
        return None if whole is None else whole[np.asarray(rows, dtype=np.int64)]
    if getattr(dataset, "target_transform", None) is not None:
        return None
    for name in ("targets", "labels", "_labels"):
        labels: Any = getattr(dataset, name, None)
        if hasattr(labels, "__len__") and len(labels) == len(dataset):
            return None if isinstance(labels, (str, Mapping)) else as_array(labels)
    return None


def _pair(dataset: Any, index: int, where: str) -> Any:
    item = _item(dataset, index, where)
    if not (isinstance(item, (tuple, list)) and len(item) == 2):
        told, x, y = "", "example", "label"
        if isinstance(item, (tuple, list)):
            told, x, y = f" of {len(item)}", "0", "1"
        elif isinstance(item, Mapping):
            keys = [repr(key)[:30] for key in item]
            told, (x, y, *_) = f" of {', '.join(keys[:5])}", (*keys, x, y)
        raise InvalidInputError(
            f"{where}: items of the dataset have to be pairs (x, y), and item {index} is "
            f"{a_type(item)}{told}; give what are examples and what labels apart, such as "
            f"load_task([d[{x}] for d in data], [d[{y}] for d in data])"
        )
    return item


def _agree(labels: np.ndarray, dataset: Any, first: Any, where: str) -> bool:
    """Whether a dataset returns these labels: all, or of many some and one of every class."""
    few = len(labels) <= _COMPARED
    spread = np.linspace(0, len(labels) - 1, len(labels) if few else _COMPARED // 2).round()
    classes = np.unique([str(label) for label in labels.tolist()], return_index=True)[1]
    some = np.sort(classes)[: _COMPARED // 2]
    positions = np.unique([*spread.astype(int), *some]).tolist()  # the first is 0
    returned = as_array([first, *(_pair(dataset, i, where)[1] for i in positions[1:])])
    return bool(np.array_equal(returned, labels[positions]))


def as_example(value: Any) -> Any:
    """One item of a dataset as an example; uint8 (H, W, C) and (C, H, W) are images.

    Arrays are copied, since a dataset may fill the same memory with every item.
    """
    if hasattr(value, "detach"):
        value = from_tensor(value)
    if is_sound(value):
        sound = as_sound(value)
        return Sound(sound.samples.copy(), sound.rate)
    if not isinstance(value, np.ndarray):
        return np.array([value], np.float32) if isinstance(value, (int, float)) else value
    value = value.copy()
    if value.dtype == np.uint8 and value.ndim in (2, 3):
        return array_to_image(channels_last(value) if value.ndim == 3 else value)
    return _as_float32(value[None], "an example of the dataset")[0]


def as_examples(values: Any, where: str) -> Sequence[Any]:
    """Arrays, tensors, data frames and lists as a sequence of examples.

    uint8 arrays and tensors with three or four axes are images, (N, H, W), (N, H, W, C) or, as
    torch has them, (N, C, H, W); other numbers become float32, one example per entry of the first
    axis. Lists hold images, texts, pairs of texts, sounds (waveforms of different lengths, or
    mappings with ``array`` and ``sampling_rate``), or numbers.
    """
    check_container(values, where)
    if isinstance(values, Mapping):
        raise InvalidInputError(
            f"{where}: examples are {a_type(values)} of {', '.join(map(str, values))}; give one of "
            f"them, or an array or list that holds an example per row"
        )
    if hasattr(values, "to_pandas") and not hasattr(values, "to_numpy"):  # a table of Arrow
        values = values.to_pandas()
    if hasattr(values, "detach"):
        values = from_tensor(values)
    elif hasattr(values, "to_numpy"):
        values = _of_frame(values, where)
    if isinstance(values, np.ndarray) and values.dtype.kind in "OUS":
        values = values.tolist()
    if isinstance(values, np.ndarray):
        if values.dtype == np.uint8 and values.ndim in (3, 4):
            with about(where):
                return ImageArray(channels_last(values) if values.ndim == 4 else values)
        return Rows(_as_float32(values, where))
    if not (hasattr(values, "__len__") and hasattr(values, "__getitem__")):
        raise InvalidInputError(
            f"{where}: examples are {a_type(values)}; give an array, a tensor or a list"
        )
    if not len(values):
        return []
    own = isinstance(values, (list, tuple, Examples))
    if isinstance(values, (list, tuple)) and any(map(is_none, values[:1])) | isinstance(
        values[0], str
    ):
        values = _filled(values)
    if (files := _named_files(values, where)) is not None:
        return files
    first = values[0] if own else _item(values, 0, where)
    if is_pair(first) or not isinstance(first, (int, float, list, tuple)):
        vectors = isinstance(values, (list, tuple)) and all(len(np.shape(v)) == 1 for v in values)
        # Of different lengths they are no rows of one table.
        if is_sound(first) or (vectors and len({np.shape(v) for v in values}) > 1):
            sounds = []
            for place, value in enumerate(values):
                try:
                    sounds.append(as_sound(value))
                except InvalidInputError as error:
                    raise InvalidInputError(f"{where}, example {place}: {error}") from error
            return sounds
        if hasattr(first, "dtype") and isinstance(values, (list, tuple)):
            pixels = all(str(v.dtype).endswith("uint8") and v.ndim in (2, 3) for v in values)
            sizes = {tuple(v.shape) for v in values}
            if pixels and (len(sizes) > 1 or hasattr(first, "detach")):
                return [*map(as_example, values)]
            return as_examples(_stack(values, where), where)
        given = example_modality(first)
        if isinstance(values, list) and any(example_modality(v) != given for v in values):
            raise InvalidInputError(f"{where}: the list mixes different kinds of examples")
        return values if own else _Foreign(values, where, given)
    return Rows(_as_float32(_stack(values, where), where))


def _of_frame(values: Any, where: str) -> np.ndarray:
    """A column or frame of pandas: texts, empty where there is nothing, or else numbers."""
    cells: np.ndarray = values.to_numpy()
    if cells.dtype != object:
        return cells
    if cells.ndim == 2 and (numbers := written_numbers(values, cells, where)) is not None:
        return numbers
    filled = _filled(cells.ravel().tolist())
    if all(isinstance(cell, str) for cell in filled):
        shape = cells.shape[: 1 if cells.size == len(cells) else None]
        return np.fromiter(filled, object, len(filled)).reshape(shape)
    return as_numbers(values, where) if cells.ndim == 2 else cells


def _filled(cells: Sequence[Any]) -> list[Any]:
    """Texts with the empty one where there is none; anything else as it is."""
    lacking = [is_none(cell) for cell in cells]
    texts = all(gone or isinstance(cell, str) for cell, gone in zip(cells, lacking, strict=True))
    if all(lacking) or not texts:
        return list(cells)
    return ["" if gone else cell for cell, gone in zip(cells, lacking, strict=True)]


def _named_files(values: Any, where: str) -> Files | None:
    """The images or sounds whose paths a list holds; None where it holds anything else."""
    if not isinstance(values, (list, tuple)) or not isinstance(values[0], (str, os.PathLike)):
        return None
    nouns: dict[str, Modality] = {"image": "image", "sound": "audio"}
    for noun, modality in nouns.items():
        ends = (isinstance(v, (str, os.PathLike)) and os.fspath(v).lower() for v in values)
        if all(end and end.endswith(FILE_SUFFIXES[noun]) for end in ends):
            paths = [Path(value).expanduser() for value in values]
            with about(where):
                return Files.named(paths, modality, f", seen from {os.getcwd()!r}; check the paths")
    return None


def _stack(values: Sequence[Any], where: str) -> np.ndarray:
    try:
        return np.stack([np.asarray(value) for value in values])
    except ValueError as error:
        raise InvalidInputError(
            f"{where}: the examples differ in shape ({error}); make them equal"
        ) from error


def _as_float32(values: np.ndarray, where: str) -> np.ndarray:
    """Finite numbers as float32, one example per entry of the first axis."""
    if values.dtype.kind not in "fiub" or values.ndim == 0:
        raise InvalidInputError(
            f"{where}: examples of type {values.dtype} and shape {values.shape}; give real numbers "
            f"with one example per row"
        )
    if 0 in values.shape[1:]:
        raise InvalidInputError(
            f"{where}: examples of shape {values.shape[1:]} hold no numbers; leave them out"
        )
    values = values[:, None] if values.ndim == 1 else values
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(values, dtype=np.float32)
    if values.ndim == 2 and values.dtype.itemsize > 4 and len(values):
        _refuse_rounded(values, result, where)
    bad = ~np.isfinite(result).all(axis=tuple(range(1, result.ndim)))
    if bad.any():
        raise InvalidInputError(
            f"{where}: {int(bad.sum())} rows hold NaN or infinite values, the first is row "
            f"{int(bad.argmax())}; remove or fill them"
        )
    return result


def _refuse_rounded(values: np.ndarray, result: np.ndarray, where: str) -> None:
    """Refuse columns whose numbers differ by little beside their size, which float32 would lose."""
    least, most = values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite ones are refused below
        doubted = np.maximum(-least, most) * 2.0**-24 > _LOST * (most - least)
    for column in np.flatnonzero(doubted & (most > least)).tolist():
        if (values[:, column] != result[:, column]).any():
            raise InvalidInputError(
                f"{where}: the numbers of column {column} differ by too little beside their size, "
                f"{most[column]:.6g}, for float32; subtract their mean, or leave it out"
            )
