"""Models as they are given (text with commas and wildcards, files, Python's lists), each named."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any

from torch import nn

from transfer_metrics.errors import InvalidInputError, TransferMetricsError, reason
from transfer_metrics.naming import checked_name, told_apart
from transfer_metrics.sources.models.load_model import check_model, list_models, load_model
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import not_a_model, plain_module
from transfer_metrics.sources.specs import models_of, parse_model, parse_name
from transfer_metrics.syntax import cut, cut_all, unquoted
from transfer_metrics.untrusted import read_text


@dataclass(frozen=True)
class Candidate:
    """A model before it is loaded, and what the table calls it."""

    name: str
    model: str | Model | nn.Module

    def load(self) -> Model:
        """The model, under this name; raises what ``load_model`` raises."""
        return load_model(self.model).called(self.name)


def candidates_of(models: Any) -> list[Candidate]:
    """Names, files, modules and models, mappings and lists of all that, each with its own name.

    A specification is a name; a model has one; a module is called after its class. The second of
    equal names gets a number. The same module or specification given twice is one candidate. Where
    nothing has the name of any of them, that is an error here; of one among others, when it is
    loaded.

    >>> from torch import nn
    >>> [c.name for c in candidates_of([nn.ReLU(), nn.ReLU(), {"small": nn.ReLU()}])]
    ['ReLU', 'ReLU (2)', 'small']
    """
    if isinstance(models, list) and models and all(isinstance(m, Candidate) for m in models):
        return models
    pairs = _named_models(models)
    for _, model in pairs:
        if not isinstance(model, (str, Model, nn.Module)):
            raise not_a_model(model)
    given = [name for name, _ in pairs if name is not None]
    twice = [name for name, count in Counter(given).items() if count > 1]
    if twice:
        raise InvalidInputError(
            f"several models are called {twice[0]!r}; give each a name of its own"
        )
    found = [_own_name(model) for name, model in pairs if name is None]
    numbered = iter(told_apart([*given, *found])[len(given) :])
    wrong: list[TransferMetricsError] = []
    for _, model in pairs:
        try:
            check_model(model)
            break
        except TransferMetricsError as error:
            wrong.append(error)
    else:
        raise wrong[0]
    return [Candidate(name or next(numbered), model) for name, model in pairs]


def _own_name(model: Any) -> str:
    if isinstance(model, str):
        return model
    if isinstance(model, Model):
        return model.name
    try:
        return type(plain_module(model)).__name__
    except TransferMetricsError:  # which it is refused for when it is loaded
        return type(model).__name__


def _named_models(models: Any) -> list[tuple[str | None, str | Model | nn.Module]]:
    """The models, each with the name that it was given, or None; repeats are left out.

    Commas stand between names. Options after a wildcard go to each match. ``@file`` stands for the
    names in a text file, one or several to a line; what follows ``#`` at the beginning of a line or
    after a space is a comment. A table of scores, or its place, stands for its shortlist, and
    ``popular:small`` for a list of published models. A comma belongs to a file or folder that is
    there with the comma in its name, and to what stands in quotes.

    >>> _named_models("timm:resnet18(pretrained=False, seed=1), small = hf:bert-base-uncased")
    [(None, 'timm:resnet18(pretrained=False, seed=1)'), ('small', 'hf:bert-base-uncased')]
    """
    lists = (list, tuple, set, frozenset, Iterator)
    found: list[tuple[str | None, Any]] = []
    for item in models if isinstance(models, lists) else [models]:
        for name, model in _named(item):
            known = (seen for other, seen in found if other == name)
            if not any(model is s or (isinstance(model, str) and model == s) for s in known):
                found.append((name, model))
    if not found:
        raise InvalidInputError("no models; give at least one, such as zoo:*")
    return found


def _named(item: Any) -> Iterator[tuple[str | None, Any]]:
    if isinstance(item, str):
        for text in _split(item):
            yield from _expand(text)
    elif isinstance(item, Mapping):
        for key, model in item.items():
            name = checked_name(key, "a model")
            yield name, _only(name, unquoted(model)) if isinstance(model, str) else model
    elif (names := models_of(item)) is not None:
        yield from map(parse_name, names)
    else:
        yield None, item


def _split(text: str) -> list[str]:
    """The parts between commas, of which none is within a path that exists."""
    parts, found = cut_all(text, ","), []
    while parts:
        # What has no hub may belong to the path before it.
        most = 1 + len(list(itertools.takewhile(lambda part: ":" not in part, parts[1:])))
        joined = (count for count in range(most, 1, -1) if _exists(",".join(parts[:count])))
        count = next(joined, 1)
        found.append(unquoted(",".join(parts[:count])))
        del parts[:count]
    return [part for part in found if part]


def _exists(text: str) -> bool:
    place = os.path.expanduser(text.strip()[1:]) if _is_list(text) else _local_path(text)
    return os.path.exists(place)


def _local_path(text: str) -> str:
    """The file or folder that a model specification names, or would name; empty where none."""
    hub, _, rest = text.partition(":")
    is_folder = hub.rpartition("=")[2].strip() == "hf"
    return os.path.expanduser(unquoted(rest if is_folder else cut(rest, "=")[2]))


def _is_list(text: str) -> bool:
    return text.lstrip().startswith("@")


def _expand(text: str) -> list[tuple[str | None, str]]:
    if _is_list(text):
        return _listed(text[1:])
    if (names := models_of(text)) is not None:
        return [parse_name(name) for name in names]
    name, spec = parse_name(text)
    if name is not None:
        return [(name, _only(name, spec))]
    end = min((spec.find(mark) for mark in "(=" if mark in spec), default=len(spec))
    pattern, rest = spec[:end], spec[end:]
    is_list = pattern.strip().startswith("popular:")
    if not (is_list or has_magic(pattern)) or os.path.isdir(_local_path(spec)):
        return [(None, spec)]
    return [(None, match + rest) for match in list_models(pattern.strip())]


def _only(name: str, spec: str) -> str:
    """The one model that is to have a name."""
    found = [] if _is_list(spec) else _expand(spec)
    if any(other is not None for other, _ in found):
        raise InvalidInputError(f"model {name!r}: {spec!r} has a name too; give it one name")
    if len(found) != 1:
        raise InvalidInputError(
            f"model {name!r}: {spec!r} stands for "
            f"{f'{len(found)} models' if found else 'a list'}; give a name to one model each"
        )
    return found[0][1]


def _listed(place: str) -> list[tuple[str | None, str]]:
    """The names in a file, checked as far as they can be without loading anything."""
    try:
        text = read_text(Path(unquoted(place)).expanduser())
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"the list of models {place!r} cannot be read ({reason(error)}); give a text file with "
            f"a name on each line"
        ) from error
    found: list[tuple[str | None, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            for item in _split(_without_comment(line)):
                if _is_list(item):
                    raise InvalidInputError(f"{item!r}: lists cannot name other lists")
                expanded = _expand(item)
                for _, one in expanded:
                    parse_model(one)
                found += expanded
        except TransferMetricsError as error:
            raise type(error)(f"{place}, line {number}: {error}") from error
    if not found:
        raise InvalidInputError(f"the list of models {place!r} names none; write one on each line")
    return found


def _without_comment(line: str) -> str:
    """A line up to a ``#`` at its beginning or after a space; not one in quotes or brackets."""
    kept, *parts = cut_all(line, "#")
    for part in parts:
        if not kept or kept[-1].isspace():
            break
        kept += f"#{part}"
    return kept
