"""Examples without labels, as people have them: folders, files, a table, images, texts, arrays."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transfer_metrics.errors import InvalidInputError, about, reason
from transfer_metrics.registry import choose
from transfer_metrics.sources.example import Modality, Word, is_pair, is_sound
from transfer_metrics.sources.specs import parse_task, task_text, text_of
from transfer_metrics.sources.tasks.in_memory import as_example, as_examples
from transfer_metrics.sources.tasks.load_task import TASK_SOURCES, load_task
from transfer_metrics.sources.tasks.paths import FILE_SUFFIXES, files_below
from transfer_metrics.sources.tasks.sequences import Examples, Files
from transfer_metrics.sources.tasks.table_cells import Table
from transfer_metrics.sources.tasks.table_files import read_table
from transfer_metrics.sources.tasks.table_tasks import word_lists
from transfer_metrics.sources.tasks.task import Split, Task
from transfer_metrics.untrusted import TABLE, read_text

_TABLES = {".csv": "csv", ".tsv": "tsv", ".json": "jsonl", ".jsonl": "jsonl", ".parquet": "parquet"}
_OPTIONS = ("text", "image", "words", "features", "root", "header")
"""Of tables whose labels are not read."""
_NOUNS = {"image": "image", "audio": "sound"}
"""What a file is of which each is an example, by the modality of the model."""
_LONGEST = 60
"""Characters of a text that is called by its beginning."""


@dataclass(frozen=True, eq=False)
class NewExamples:
    """Examples to predict on, each with what it is called.

    Attributes:
        names: paths of files, beginnings of texts, rows of tables, positions in lists.
        examples: the same number, decoded when they are used.
        left_out: files that are no examples, each with the reason.
    """

    names: Sequence[str]
    examples: Sequence[Any]
    left_out: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def by_word(self) -> NewExamples:
        """The words of texts, parted by spaces, each read in its text and called by itself."""
        words: list[Word] = []
        for example in self.examples:
            if isinstance(example, Word):
                words.append(example)
            elif isinstance(example, str):
                words += _of_words([example.split()]).examples
            else:
                raise InvalidInputError(
                    f"the head labels the words of texts, and an example is a "
                    f"{type(example).__name__}; give texts"
                )
        return NewExamples([word.sentence[word.position] for word in words], words, self.left_out)


def is_task_name(X: Any) -> bool:
    """Whether a text names a task, as ``load_task`` takes it, and is no file nor a sentence."""
    if not isinstance(X, str) or os.path.exists(X):
        return False
    source, colon, place = X.partition(":")
    known = source == source.strip() and source in [*TASK_SOURCES]
    return X == "glyphs" or bool(known and colon and place and not place[0].isspace())


def is_new(X: Any) -> bool:
    """Whether something is files, images or texts without labels, rather than arrays or a task.

    >>> is_new("photos/"), is_new(["a film"]), is_new("sklearn:digits"), is_new(np.zeros((2, 3)))
    (True, True, False, False)
    """
    if isinstance(X, (str, os.PathLike)):
        return not is_task_name(X)
    if isinstance(X, (list, tuple)) and len(X):
        X = X[0]
    given = isinstance(X, (str, os.PathLike, Image.Image)) or is_pair(X) or is_sound(X)
    return given or _is_sentence(X)


def new_examples(
    X: Any, modality: Modality, columns: Sequence[str] = (), words: bool = False
) -> NewExamples:
    """Read examples that have no labels, or whose labels do not matter.

    For a model of images a text is the path of an image, of a folder, of which all images count
    whatever folders they are in, or of a table that names image files; for one of sounds that of a
    WAV file or a folder of them. For a model of texts it is the path of a table, of a file ``.txt``
    with a text per line, or else a text itself; for one of numbers the path of a table. The name of
    a task stands for its split ``test``. An image, a pair of texts, a sound, a split, arrays and
    lists of all these are taken as ``load_task`` takes them. ``columns`` are those of tables that
    the model was trained to read, if known. Where ``words`` are the examples, they are those of
    lists of words, which tables may hold too, and of texts.
    """
    reader = _Reader(modality, columns, words)
    if words and isinstance(X, (list, tuple)) and X and all(map(_is_sentence, X)):
        return _of_words(X)
    return reader.read(X).by_word() if words else reader.read(X)


def _is_sentence(X: Any) -> bool:
    """Whether something is a list of words."""
    return isinstance(X, (list, tuple)) and bool(X) and all(isinstance(word, str) for word in X)


@dataclass(frozen=True)
class _Reader:
    """What reads examples for a model, as ``new_examples`` says."""

    modality: Modality
    columns: Sequence[str]
    words: bool

    def read(self, X: Any) -> NewExamples:
        if isinstance(X, Split):
            return _listed(X.examples)
        if isinstance(X, Task) or is_task_name(X):
            return self._of_task(X)
        one_pair = self.modality == "text" and isinstance(X, tuple) and is_pair(X)
        if isinstance(X, Image.Image) or is_sound(X) or one_pair:
            X = [X]
        if self.modality == "image" and str(getattr(X, "dtype", "")).endswith("uint8"):
            X = _one_or_several(X)
        if isinstance(X, (str, os.PathLike)):
            return self._of_path(X)
        if isinstance(X, (list, tuple)) and any(isinstance(x, (str, os.PathLike)) for x in X):
            plain = all(isinstance(x, str) and not _is_named(x) for x in X)
            texts = self.modality == "text" and plain
            return _of_texts(X) if texts else _joined([self.read(x) for x in X])
        return _listed(as_examples(X, "the examples"))

    def _of_task(self, X: Any) -> NewExamples:
        """The split ``test`` of a task; of tables and folders all, whatever their labels."""
        if isinstance(X, str):
            source, place, options = parse_task(X)
            if source in _TABLES.values():
                return self._of_table(place, options)
            if source in ("imagefolder", "audiofolder"):
                return self._of_path(place)
        task = load_task(X)
        return _listed(task["test" if "test" in task.splits else "train"].examples)

    def _of_path(self, X: Any) -> NewExamples:
        told = os.fspath(X)
        path = Path(told).expanduser()
        place = _without_options(told)
        if place != told and _is_named(place):
            if not os.path.exists(os.path.expanduser(place)):
                raise _absent(place)
            return self._of_task(task_text(told))
        try:
            is_folder, is_file = path.is_dir(), path.is_file()
        except (OSError, ValueError):  # a text that is no path: too long, or with a NUL in it
            is_folder = is_file = False
        of_texts = self.modality == "text"
        may_be_text = of_texts and isinstance(X, str) and not is_file
        if path.suffix.lower() in _TABLES and not is_folder and not may_be_text:
            return self._of_table(told, {})
        if of_texts and is_file:
            return _of_lines(path, told)
        if of_texts and not is_folder:
            folder = "/" in told and not any(letter.isspace() for letter in told)
            if isinstance(X, str) and not (folder or _is_named(told)):
                return _of_texts([X])
            raise _absent(told)
        if self.modality not in _NOUNS:
            raise InvalidInputError(
                f"{told!r}: the model reads {'a text per line' if of_texts else 'numbers'}, and "
                f"{'a folder' if is_folder else 'this'} holds none; give a table such as new.csv"
            )
        if is_folder:
            return _of_folder(path, told, self.modality)
        if not is_file:
            raise _absent(told)
        return NewExamples([text_of(told)], Files([path], self.modality))

    def _of_table(self, place: str, options: dict[str, str]) -> NewExamples:
        for option in options:
            choose("option of a table without labels:", option, _OPTIONS)
        with about(repr(place)):
            table = read_table(place, options.get("header"))
            rows = [f"row {number}" for number in range(1, table.rows + 1)]
            if self.modality == "image":
                [column] = self._columns(table, "image", options, ("paths", "images"))
                examples = table.images(column, options.get("root"))
                names = table.cells(column) if table.holds(column) == "paths" else rows
                return NewExamples(names, examples)
            if self.modality != "text":
                chosen = self._columns(table, "features", options, ("numbers",))
                return NewExamples(rows, as_examples(table.numbers(chosen), "columns"))
            if "words" in options and not self.words:
                raise InvalidInputError(
                    "?words= names words, and the head was fitted on texts; say ?text="
                )
            if self.words and "text" not in options:
                lists = any(table.holds(column) == "lists" for column in table.columns)
                if "words" in options or lists or set(self.columns) <= set(table.columns):
                    [column] = self._columns(table, "words", options, ("lists", "text"))
                    return _of_words(word_lists(table, column))
            texts = table.texts(self._columns(table, "text", options, ("text",)))
            return NewExamples(rows, texts) if is_pair(texts[0]) else _of_texts(texts)

    def _columns(
        self, table: Table, option: str, options: dict[str, str], held: Sequence[str]
    ) -> list[str]:
        """The columns to read: those asked for, those of the training, or all that there may be."""
        if option in options:
            return table.named(options[option])
        if self.columns and set(self.columns) <= set(table.columns):
            return list(self.columns)
        if self.columns and held == ("numbers",):
            table.require(self.columns)
        found = [column for column in table.columns if table.holds(column) in held]
        if held == ("text",):  # a short one may be all names of images, or all numbers
            found = found or list(table.columns[: len(table.columns) == 1])
        if not found or (len(found) > 1 and held != ("numbers",)):
            raise InvalidInputError(
                f"which column holds the {option}? The columns are: "
                f"{', '.join(table.columns)}; say ?{option}=COLUMN behind the name of the file"
            )
        return found


def _one_or_several(pixels: Any) -> Any:
    """A list of one picture (H, W, 3), or tensor (3, H, W), or what holds several as it is."""
    shape = tuple(pixels.shape)
    if len(shape) == 2:
        raise InvalidInputError(
            f"an array of pixels {shape} may be one grey picture or {shape[0]} in a row each; give "
            f"[array] for one, or array.reshape({shape[0]}, height, width)"
        )
    first_or_last = shape[0] if hasattr(pixels, "detach") else shape[-1]
    return [as_example(pixels)] if len(shape) == 3 and first_or_last == 3 else pixels


def _joined(parts: Sequence[NewExamples]) -> NewExamples:
    if len(parts) == 1:
        return parts[0]
    examples: list[Any] = [part.examples for part in parts]
    together: Sequence[Any] = _Chain(examples)
    if all(isinstance(files, Files) and files.modality == "image" for files in examples):
        together = Files([path for files in examples for path in files.paths])
    names = [name for part in parts for name in part.names]
    return NewExamples(names, together, tuple(lost for part in parts for lost in part.left_out))


class _Chain(Examples):
    """Sequences one after the other."""

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, index: int) -> Any:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._parts[part][index - int(self._starts[part])]


def _listed(examples: Sequence[Any]) -> NewExamples:
    names = [str(number) for number in range(len(examples))]
    if isinstance(examples, Files):
        names = [text_of(str(path)) for path in examples.paths]
    elif len(examples) and isinstance(examples[0], str):
        return _of_texts(examples)
    return NewExamples(names, examples)


def _of_texts(texts: Sequence[str]) -> NewExamples:
    flat = (" ".join(text.split()) for text in texts)
    names = [t if len(t) <= _LONGEST else f"{t[: _LONGEST - 1]}…" for t in flat]
    return NewExamples(names, list(texts))


def _of_words(sentences: Sequence[Sequence[Any]]) -> NewExamples:
    rows = [tuple(map(str, sentence)) for sentence in sentences]
    words = [Word(row, place) for row in rows for place in range(len(row))]
    return NewExamples([word.sentence[word.position] for word in words], words)


def _is_named(text: str) -> bool:
    """Whether a text ends as the names of files with texts do, before options if it has any."""
    place = _without_options(text)
    return os.path.splitext(place)[1].lower() in {*_TABLES, ".txt"} and (
        " " not in place or os.path.exists(os.path.expanduser(place))
    )


def _without_options(text: str) -> str:
    place, _, query = text.rpartition("?")
    return place if re.match(r"\w+=", query) and not os.path.exists(text) else text


def _absent(told: str) -> InvalidInputError:
    where = "" if os.path.isabs(told) else f" seen from {os.getcwd()!r}"
    return InvalidInputError(f"there is no file or folder {told!r}{where}; check the path")


def _of_folder(folder: Path, told: str, modality: Modality) -> NewExamples:
    """All images or sounds below a folder, by path; links to folders are not followed."""
    noun = _NOUNS[modality]
    files = list(files_below(folder))
    found = [path for path in files if path.suffix.lower() in FILE_SUFFIXES[noun]]
    others = [path for path in files if path.suffix.lower() not in FILE_SUFFIXES[noun]]
    if not found:
        ends = ".wav" if noun == "sound" else ".jpg, .png, .webp and so on"
        raise InvalidInputError(f"there is no {noun} in the folder {told!r}; {noun}s end in {ends}")
    left_out = tuple((text_of(str(path)), f"no {noun}") for path in others)
    names = [text_of(str(path)) for path in found]
    return NewExamples(names, Files(found, modality), left_out)


def _of_lines(path: Path, told: str) -> NewExamples:
    try:
        lines = read_text(path, TABLE).splitlines()
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{told!r} cannot be read as text ({reason(error)}); give "
            f"a file in UTF-8 with a text per line, or a table such as new.csv"
        ) from error
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise InvalidInputError(f"{told!r} has no text in it; write one per line")
    return _of_texts(texts)
