"""The grammar of model and task specifications; imports nothing heavy."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.naming import checked_name
from transfer_metrics.registry import resolve
from transfer_metrics.sources.tasks.paths import (
    FILE_SUFFIXES,
    files_below,
    foreign,
    is_litter,
    refuse_address,
)
from transfer_metrics.syntax import call_options, cut, unquoted

# Tables are made of scores of models, so what reads one is found when it is asked for.
_READ = "transfer_metrics.selection.base:read_results"
HUB_NAMES = ("zoo", "timm", "torchvision", "hf")
"""Hubs, whose models are loaded by names that files may have."""
_FORMATS = (".jsonl", ".json", ".csv", ".parquet")
_INPUT_OPTIONS = ("input_size", "mean", "std", "interpolation", "crop_pct")
_BY_ENDING = {
    ".csv": "csv", ".json": "jsonl", ".jsonl": "jsonl", ".npz": "npz", ".parquet": "parquet",
    ".pt": "torch", ".pth": "torch", ".tar": "tar", ".tsv": "tsv",
}  # fmt: skip
_OF_FOLDERS = ("audiofolder", "hf", "imagefolder", "parquet", "tar")
_SOURCES = {*_BY_ENDING.values(), *_OF_FOLDERS}
_SAVED = ("dataset_dict.json", "dataset_info.json")
"""What ``save_to_disk`` of ``datasets`` leaves."""


@dataclass(frozen=True)
class ModelSpec:
    """A model specification taken apart: ``hub:name(option=value, …)@revision=checkpoint``.

    Of what stands in parentheses, ``inputs`` are those that describe the input, and ``options`` all
    but these and the ``seed``. Only Hugging Face models have a ``revision``.
    """

    text: str
    hub: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    seed: Any = None
    revision: str = ""
    checkpoint: str = ""


def results_of(given: Any) -> Any:
    """What was found before, where it stands for models, layers or features; None for all else.

    That is a table of scores, a selection or a decision, or the place of one: a folder that
    ``rank`` or ``transfer`` wrote, a file of scores, what ``--json`` printed, or a ``chosen.json``.
    It has ``chosen_models()``, ``chosen_layers(model)`` and ``chosen_task()``.
    """
    if hasattr(given, "chosen_models"):
        return given
    if not isinstance(given, (str, os.PathLike)):
        return None
    place = os.path.expanduser(given)
    is_file = os.path.splitext(place)[1].lower() in _FORMATS and os.path.isfile(place)
    if is_file or os.path.isfile(os.path.join(place, "scores.jsonl")):
        return resolve(_READ)(place)
    return None


def named_spec(name: str, spec: str | None) -> str | None:
    """The specification of a model that has a name of its own; None where they are the same."""
    return spec if spec and spec != name else None


def models_of(given: Any) -> list[str] | None:
    """The models that something found before stands for, the best first; None for all else.

    One that has a name of its own is ``name = specification``. A file may be anybody's, and the
    name of a factory would run code of its choice, so it is refused.
    """
    found = results_of(given)
    if found is None:
        return None
    specs: dict[str, str] = getattr(found, "specs", {})
    names: list[str] = found.chosen_models()
    for name in names if found is not given else []:
        spec = specs.get(name, name)
        if spec.partition(":")[0] not in HUB_NAMES or ":" not in spec:
            raise InvalidInputError(
                f"{os.fspath(given)} has the model {name!r}, which is none of "
                f"{', '.join(HUB_NAMES)}; names in files are not run as code, so name the model"
            )
    return [f"{name} = {specs[name]}" if name in specs else name for name in names]


def parse_model(text: str) -> ModelSpec:
    """Take a model specification apart; what stands in quotes may have any letters.

    >>> spec = parse_model("timm:mobilenetv2_050(pad_type=same, input_size=96)=net.safetensors")
    >>> spec.name, spec.options, spec.inputs, spec.checkpoint
    ('mobilenetv2_050', {'pad_type': 'same'}, {'input_size': 96}, 'net.safetensors')
    """
    hub, colon, rest = text.strip().partition(":")
    if hub.startswith("@"):
        raise InvalidInputError(f"model {text!r} is a list of models; name one of them here")
    for place in (text.strip(), rest):
        refuse_address(text, place, "model")
    if not (hub and colon and rest):
        raise InvalidInputError(
            f"model {text!r}: write <hub>:<name>, with a hub of zoo, timm, torchvision or hf, or "
            f"package.module:factory; put a path with a comma in it in quotes"
        )
    if hub == "hf":
        rest = unquoted(rest)
        if os.path.isdir(os.path.expanduser(rest)):
            return ModelSpec(text, hub, rest)
        name, _, revision = rest.partition("@")
        return ModelSpec(text, hub, name, revision=revision)
    head, _, checkpoint = cut(rest, "=")
    name, mark, arguments = head.partition("(")
    options = call_options(mark + arguments, f"model {text!r}") if mark else {}
    inputs = {key: options.pop(key) for key in _INPUT_OPTIONS if key in options}
    seed = options.pop("seed", None)
    return ModelSpec(text, hub, name.strip(), options, inputs, seed, "", unquoted(checkpoint))


def parse_name(text: str) -> tuple[str | None, str]:
    """Take ``name = specification`` apart; the name is None where there is none.

    What stands before the first ``=`` is a name where it has no colon: before the ``=`` of a
    checkpoint there is the colon of the hub.
    """
    text = unquoted(text)
    name, mark, rest = cut(text, "=")
    if not mark or ":" in name or text.startswith("@"):
        return None, text
    if not rest.strip():
        raise InvalidInputError(f"model {text!r}: nothing is named; write name = <hub>:<name>")
    return checked_name(unquoted(name), f"model {rest.strip()!r}"), unquoted(rest)


def text_of(name: str) -> str:
    """A name of a file as text that can be written: bytes that are no UTF-8 as ``\\x…``.

    >>> text_of("caf" + chr(0xDCE9)), text_of("café")
    ('caf\\\\xe9', 'café')
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def task_text(text: str) -> str:
    """A task specification with its source, where it is only the path of a file or folder.

    What begins with a word and a colon has a source, whatever is on the disk; one letter is none.
    """
    text = text.strip() if not _exists(text) else text
    source, colon, _ = text.partition(":")
    if (colon and re.fullmatch(r"[\w-]{2,}", source)) or text == "glyphs":
        return text
    for end in (len(text), text.rfind("?")):
        if end > 0 and _exists(text[:end]):
            return f"{_source_of(Path(text[:end]).expanduser())}:{text}"
    return text


def _source_of(path: Path) -> str:
    """The task source that reads a file or folder, by its ending or by what is in it.

    Of a folder without tables it is that of images, which says what is wrong with the folder. It is
    an error where no source reads it, or several might.
    """
    if not path.is_dir():
        source = _BY_ENDING.get(path.suffix.lower())
        if source is None:
            anything = (
                f"a file {path.suffix or 'without an ending'} may be anything; "
                f"write <source>:{path}, with a source of {', '.join(sorted(_SOURCES))}"
            )
            told = foreign(path)
            raise InvalidInputError(f"task {str(path)!r}{f' {told}' if told else f': {anything}'}")
        return source
    try:
        inner = sorted(p for p in path.iterdir() if not is_litter(p.name))
    except OSError:  # which the source tells better
        inner = []
    files = [p for p in inner if p.is_file()]
    below = [p for p in inner if p.is_dir()]
    found = {s: f.name for f in files[::-1] if (s := _BY_ENDING.get(f.suffix.lower()))}
    if saved := [file.name for file in files if file.name in _SAVED]:
        found["hf"] = saved[0]
    for source, noun in (("imagefolder", "image"), ("audiofolder", "sound")):
        all_below = (file for folder in below for file in files_below(folder))
        first = next((f for f in all_below if f.suffix.lower() in FILE_SUFFIXES[noun]), None)
        if first is not None:
            found[source] = str(first.relative_to(path))
            break  # sounds beside images are not looked for
    if not found:  # shards may lie in a folder for each split
        deep = ((_BY_ENDING.get(f.suffix.lower()), f) for d in below for f in files_below(d))
        found = {s: str(f.relative_to(path)) for s, f in deep if s in _OF_FOLDERS}
    if len(found) > 1:
        ways = [f"{s}:{path if s in _OF_FOLDERS else path / found[s]}" for s in sorted(found)]
        raise InvalidInputError(
            f"task {str(path)!r}: it holds {' and '.join(found[s] for s in sorted(found))}, so it "
            f"is not known what is meant; write {' or '.join(ways)}"
        )
    [source] = found or ["imagefolder"]
    if source not in _OF_FOLDERS:
        raise InvalidInputError(
            f"task {str(path)!r} is a folder with {found[source]}; name the file: "
            f"{path / found[source]}"
        )
    return source


def parse_task(text: str) -> tuple[str, str, dict[str, str]]:
    """Take a task specification apart: ``source:place?option=value&option=value``.

    >>> parse_task("csv:reviews.csv?label=stars&kind=regression")
    ('csv', 'reviews.csv', {'label': 'stars', 'kind': 'regression'})
    """
    text = task_text(text)
    source, colon, place = text.lstrip().partition(":")
    for one in (text.lstrip(), *([place] if source in _SOURCES else [])):
        refuse_address(text, one)
    # A name may end in a space, which is typed by mistake more often.
    place = place if _exists(place) else place.rstrip()
    if not (source and colon and place):
        if source.rstrip() == "glyphs":
            return "zoo", "glyphs", {}
        raise InvalidInputError(
            f"task {text!r}: there is no such file or folder; give one that is there, or write "
            f"<source>:<place>, for example sklearn:digits, imagefolder:photos/, npz:data.npz, "
            f"csv:table.csv or hf:imdb; in a list of several, put one with a comma in its name in "
            f"quotes"
        )
    head, mark, query = place.rpartition("?")
    if not mark or _exists(place) or not re.match(r"\w+=", query):
        return source, place, {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError as error:
        raise InvalidInputError(
            f"task {text!r}: cannot read the options {query!r}; write ?name=value&name=value, with "
            f"%26 for an & in a value, %2B for a + and %25 for a %"
        ) from error
    return source, head, dict(pairs)


def _exists(place: str) -> bool:
    try:
        return os.path.exists(os.path.expanduser(place))
    except ValueError:  # of a null character
        return False


def refuse_among_examples(out: str | os.PathLike[str], task: Any) -> None:
    """Raise where results would be written into the folder of a task's examples, or below it.

    ``task`` is one or its name; one from memory has no folder.
    """
    name = getattr(task, "name", task)
    try:
        place = os.path.expanduser(parse_task(name)[1]) if isinstance(name, str) else ""
    except InvalidInputError:
        return
    if not os.path.isdir(place):
        return
    inside, folder = Path(out).expanduser().resolve(), Path(place).resolve()
    if inside == folder or folder in inside.parents:
        raise InvalidInputError(
            f"cannot write {os.fspath(out)}: the examples of {name!r} are there, and would no "
            f"longer be what they were; name a place outside of {place}"
        )


def with_options(text: str, **options: object) -> str:
    """A task specification with further options, which count before those that it has.

    >>> with_options("csv:a.csv?label=x", examples=10), with_options("glyphs", seed=1)
    ('csv:a.csv?label=x&examples=10', 'zoo:glyphs?seed=1')
    """
    text = task_text(text)
    source, place, written = parse_task(text)
    start = text if written else f"{source}:{place}"
    return f"{start}{'&' if written else '?'}{urlencode(options)}"
