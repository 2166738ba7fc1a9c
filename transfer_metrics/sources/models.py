"""Load models by name, from any source, each with its own preprocessing."""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from transfer_metrics.errors import (
    InvalidInputError,
    MissingDependencyError,
    TransferMetricsError,
    UnknownNameError,
)
from transfer_metrics.naming import checked_name
from transfer_metrics.sources.registry import HUBS
from transfer_metrics.sources.specs import local_path, parse_model, parse_name
from transfer_metrics.syntax import cut, unquoted
from transfer_metrics.untrusted import read_text

if TYPE_CHECKING:
    import torch
    from torch import nn

    from transfer_metrics.sources.base import Modality, Model

_WILD = "*?["


def load_model(
    spec: str | Model | nn.Module,
    *,
    name: str | None = None,
    head: str | bool | None = None,
    preprocess: Callable[[Any], Any] | None = None,
    modality: Modality | None = None,
    device: str | torch.device | None = None,
) -> Model:
    """Load a model with its own preprocessing.

    - ``zoo:resnet-cifar10``: bundled with this package
    - ``timm:resnet18``, ``timm:resnet18.a1_in1k``: timm, pretrained
    - ``torchvision:resnet18``: torchvision, its best weights
    - ``torchvision:resnet50(weights=IMAGENET1K_V1)``: options of the constructor
    - ``timm:resnet18(pretrained=False, seed=1)``: random weights, the same every time
    - ``timm:resnet18=weights.safetensors``: an architecture with a local checkpoint
    - ``timm:resnet18(num_classes=10)=weights.pth``: with options of the constructor
    - ``hf:google/vit-base-patch16-224@main``: Hugging Face, with a revision
    - ``hf:path/to/folder``: Hugging Face, written by ``save_pretrained``
    - ``package.module:factory(width=2)=w.safetensors``: a function that returns a network
    - ``small = timm:resnet18``: any of them, under a name of its own

    ``input_size, mean, std, interpolation, crop_pct`` in the parentheses override the settings
    of the input (not for ``hf:``): ``timm:mobilenetv2_050(pad_type=same, input_size=96, mean=0.5,
    std=0.5)=net.safetensors``. ``seed`` is that of random weights. A factory gets all options that
    it has arguments for, these six too, and then they are its own affair. In a module or a
    factory's result these settings, and the name of the classifier, are read from a dictionary
    ``pretrained_cfg`` as timm has it: ``input_size`` (C, H, W), ``mean``, ``std`` (where white is
    1), ``interpolation``, ``crop_pct`` and ``classifier``. A module without it reads arrays of
    numbers.

    Args:
        spec: one of the above, a module, or a ``Model`` (returned with the changes below).
        name: what tables call it, instead of the specification or the class of the module.
        head: dotted path of the classifier; ``None`` finds it, ``False`` means none.
        preprocess: one raw example to one input, instead of the model's own.
        modality: what ``preprocess`` reads, ``"image"``, ``"text"``, ``"audio"`` or ``"tensor"``;
            ``"image"`` unless given.
        device: where to put the network.

    Returns:
        The model. Networks loaded by name are in eval mode; a module given is left as it is.

    Raises:
        UnknownNameError: no hub, model, weights or head has that name; with suggestions.
        InvalidInputError: the specification or the name cannot be read, weights cannot be had, or
            a checkpoint does not fit.
        MissingDependencyError: the hub's package is not installed or does not import.

    >>> from torch import nn
    >>> load_model(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))).head
    '2'
    """
    from torch import nn

    from transfer_metrics.sources.base import Model
    from transfer_metrics.sources.classifier import check_head
    from transfer_metrics.sources.hubs import from_module, with_proven_head

    if name is not None:
        name = checked_name(name, "a model")
    if isinstance(spec, Model):
        model = spec
    elif isinstance(spec, nn.Module):
        model = from_module(spec, type(spec).__name__, prove=preprocess is None and head is None)
    elif isinstance(spec, str):
        given, text = parse_name(spec)
        name = name or given
        model = _by_name(text)
    else:
        raise InvalidInputError(
            f"a model is a {type(spec).__name__}; give a name such as 'timm:resnet18', a "
            f"torch.nn.Module or a Model"
        )
    if preprocess is not None:
        model = dataclasses.replace(
            model,
            preprocess=preprocess,
            modality=modality or "image",
            input_shape=_input_shape(preprocess, modality or "image"),
        )
        if head is None and not isinstance(spec, str):
            model = with_proven_head(model)
    if head is False:
        model = dataclasses.replace(model, head=None)
    elif isinstance(head, str):
        model = dataclasses.replace(model, head=check_head(model.module, head))
    if device is not None:
        model.module.to(device)
    return model if name is None else called(model, name)


def called(model: Model, name: str) -> Model:
    """The same model under another name; its fingerprint, which may be known, is the same."""
    if model.name == name:
        return model
    model = copy.copy(model)
    object.__setattr__(model, "name", name)
    return model


def _by_name(text: str) -> Model:
    from transfer_metrics.sources.hubs import from_factory

    spec = parse_model(text)
    model = HUBS[spec.hub](spec) if spec.hub in HUBS else from_factory(spec)
    model.module.eval()
    return model


def _input_shape(preprocess: Callable[[Any], Any], modality: str) -> tuple[int, ...] | None:
    from PIL import Image

    if modality != "image":
        return None
    shape = getattr(preprocess, "shape", None)
    try:
        return shape or tuple(preprocess(Image.new("RGB", (224, 224))).shape)
    except Exception as error:  # the function is the caller's
        raise InvalidInputError(
            f"preprocess {preprocess!r} failed on an RGB image of 224 x 224 pixels "
            f"({type(error).__name__}: {error}); it must turn a PIL image into a tensor, or else "
            f"give modality="
        ) from error


def list_models(pattern: str = "*") -> list[str]:
    """Names that ``load_model`` accepts and that match a shell pattern.

    Covers the bundled zoo, and the installed timm and torchvision as far as they have pretrained
    weights. A pattern with a dot in timm's part matches architecture and weights together
    (``timm:resnet*.*in1k``). Case matters. Hugging Face models cannot be listed.

    Args:
        pattern: such as ``zoo:*``, ``timm:mobilenet*`` or ``*resnet18``.

    Raises:
        UnknownNameError: nothing matches.
        MissingDependencyError: the pattern names a hub whose package does not import.

    >>> "zoo:" in list_models("zoo:*")[0]
    True
    """
    hub, colon, _ = pattern.partition(":")
    listers = {"zoo": _zoo, "timm": _timm, "torchvision": _torchvision}
    if colon and hub not in listers and not any(letter in hub for letter in _WILD):
        raise UnknownNameError.of("hub to list", hub, listers)
    wanted = [hub] if colon and hub in listers else list(listers)
    known: list[str] = []
    for name in wanted:
        try:
            known += [f"{name}:{model}" for model in listers[name](pattern)]
        except MissingDependencyError:
            if len(wanted) == 1:
                raise
    found = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        raise UnknownNameError.of("model", pattern, known)
    return found


def _zoo(_pattern: str) -> Iterable[str]:
    from transfer_metrics.sources import zoo

    return zoo.names()


def _timm(pattern: str) -> Iterable[str]:
    from transfer_metrics.sources.optional import require

    names = require("timm", "listing timm models").list_models(pretrained=True)
    if "." in pattern:
        return names
    return dict.fromkeys(name.partition(".")[0] for name in names)


def _torchvision(_pattern: str) -> Iterable[str]:
    from transfer_metrics.sources.optional import require

    models = require("torchvision", "listing torchvision models").models
    return models.list_models(module=models)


def expand_models(models: Any) -> list[str | Model | nn.Module]:
    """Turn commas, wildcards, files and lists into one list of models, without repeats.

    Options after a wildcard go to each match: ``timm:mobilenetv2_*(pretrained=False)``. ``@file``
    stands for the names in a text file, one or several to a line; what follows ``#`` at the
    beginning of a line or after a space is a comment. A comma belongs to a file or folder that
    is there with the comma in its name, and to what stands in quotes.

    Args:
        models: names (commas between them, wildcards in them), files, modules, ``Model`` objects,
            mappings from a name to one of these, or a list of all that.

    Raises:
        UnknownNameError: a wildcard matches nothing.
        InvalidInputError: there is no model at all, a name stands for several, or a file cannot be
            read or used; names the line.

    >>> expand_models("timm:resnet18(pretrained=False, seed=1), small = hf:bert-base-uncased")
    ['timm:resnet18(pretrained=False, seed=1)', 'hf:bert-base-uncased']
    """
    return [model for _, model in named_models(models)]


def named_models(models: Any) -> list[tuple[str | None, str | Model | nn.Module]]:
    """The models of ``expand_models``, each with the name that it was given, or None."""
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
    else:
        yield None, item


def _split(text: str) -> list[str]:
    """The parts between commas, of which none is within a path that exists."""
    parts, rest, comma = [], text, ","
    while comma:
        part, comma, rest = cut(rest, ",")
        parts.append(part)
    found = []
    while parts:
        # What has no hub may belong to the path before it.
        most = 1 + len(list(itertools.takewhile(lambda part: ":" not in part, parts[1:])))
        joined = (count for count in range(most, 1, -1) if _exists(",".join(parts[:count])))
        count = next(joined, 1)
        found.append(unquoted(",".join(parts[:count])))
        del parts[:count]
    return [part for part in found if part]


def _exists(text: str) -> bool:
    place = os.path.expanduser(text.strip()[1:]) if _is_list(text) else local_path(text)
    return os.path.exists(place)


def _is_list(text: str) -> bool:
    return text.lstrip().startswith("@")


def _expand(text: str) -> list[tuple[str | None, str]]:
    if _is_list(text):
        return _listed(text[1:])
    name, spec = parse_name(text)
    if name is not None:
        return [(name, _only(name, spec))]
    end = min((spec.find(mark) for mark in "(=" if mark in spec), default=len(spec))
    pattern, rest = spec[:end], spec[end:]
    if not any(letter in pattern for letter in _WILD) or os.path.isdir(local_path(spec)):
        return [(None, spec)]
    return [(None, found + rest) for found in list_models(pattern)]


def _only(name: str, spec: str) -> str:
    """The one model that is to have a name."""
    found = [] if _is_list(spec) else [model for _, model in _expand(spec)]
    if len(found) != 1:
        raise InvalidInputError(
            f"model {name!r}: {spec!r} stands for "
            f"{f'{len(found)} models' if found else 'a list'}; give a name to one model each"
        )
    return found[0]


def _listed(place: str) -> list[tuple[str | None, str]]:
    """The names in a file, checked as far as they can be without loading anything."""
    from pathlib import Path

    try:
        text = read_text(Path(unquoted(place)).expanduser())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError(
            f"the list of models {place!r} cannot be read ({reason}); give a text file with a name "
            f"on each line"
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
    kept, mark, rest = cut(line, "#")
    while mark and kept and not kept[-1].isspace():
        part, mark, rest = cut(rest, "#")
        kept += f"#{part}"
    return kept
