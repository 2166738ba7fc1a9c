"""Load models by name, from any source, each with its own preprocessing."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable
from glob import has_magic
from typing import TYPE_CHECKING, Any, get_args

from transfer_metrics.errors import (
    InvalidInputError,
    MissingDependencyError,
    TransferMetricsError,
    UnknownNameError,
)
from transfer_metrics.naming import checked_name
from transfer_metrics.registry import Registry
from transfer_metrics.sources import zoo
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.specs import ModelSpec, models_of, parse_model, parse_name, results_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from transfer_metrics.sources.example import Modality
    from transfer_metrics.sources.models.model import Model

HUBS: Registry[Callable[[ModelSpec], Model]] = Registry(
    "hub",
    {
        "hf": "transfer_metrics.sources.models.huggingface:from_huggingface",
        "timm": "transfer_metrics.sources.models.hubs:from_timm",
        "torchvision": "transfer_metrics.sources.models.hubs:from_torchvision",
        "zoo": "transfer_metrics.sources.models.hubs:from_zoo",
    },
    group="transfer_metrics.hubs",
)
"""Functions from the parts of a specification to a model."""


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
    - ``transfer-metrics/``, ``scores.jsonl``, ``chosen.json``: the model that was found best there

    ``input_size, mean, std, interpolation, crop_pct`` in the parentheses override the settings
    of the input (not for ``hf:``): ``timm:mobilenetv2_050(pad_type=same, input_size=96, mean=0.5,
    std=0.5)=net.safetensors``. ``seed`` is that of random weights. A factory gets all options that
    it has arguments for, these six too, and then they are its own affair. In a module or a
    factory's result these settings, and the name of the classifier, are read from a dictionary
    ``pretrained_cfg`` as timm has it: ``input_size`` (C, H, W), ``mean``, ``std`` (where white is
    1), ``interpolation``, ``crop_pct`` and ``classifier``. A module without it reads arrays of
    numbers.

    What compiles a network, spreads it over devices (``DataParallel``) or averages its weights
    (``AveragedModel``) is taken off, so that layers have the names of the plain network.
    TorchScript, exported programs and weights on the meta device are refused: their layers cannot
    be read.

    Args:
        spec: one of the above, a module, or a ``Model`` (returned with the changes below).
        name: what tables call it, instead of the specification or the class of the module.
        head: dotted path of the classifier; ``None`` finds it, ``False`` means none.
        preprocess: one raw example to one input, instead of the model's own.
        modality: what ``preprocess`` reads, ``"image"``, ``"text"``, ``"audio"`` or ``"tensor"``;
            ``"image"`` unless given. Refused without it where the model reads something else.
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

    from transfer_metrics.sources.example import Modality
    from transfer_metrics.sources.models.classifier import check_head
    from transfer_metrics.sources.models.hubs import (
        check_name,
        from_factory,
        from_module,
        with_proven_head,
    )
    from transfer_metrics.sources.models.model import Model
    from transfer_metrics.sources.models.modules import not_a_model

    if name is not None:
        name = checked_name(name, "a model")
    known = get_args(Modality)
    if modality not in (None, *known):
        raise InvalidInputError(f"modality={modality!r}; say one of {', '.join(known)}")
    if isinstance(spec, str) and spec.strip().startswith("popular:"):
        raise InvalidInputError(
            f"{spec.strip()!r} is a list of models and one is needed; `list models {spec.strip()}` "
            f"names them"
        )
    if (names := models_of(spec)) is not None:
        spec = names[0]
    if isinstance(spec, Model):
        model = spec
    elif isinstance(spec, nn.Module):
        model = from_module(spec, prove=preprocess is None and head is None)
    elif isinstance(spec, str):
        given, text = parse_name(spec)
        name = name or given
        parts = parse_model(text)
        check_name(parts)
        model = HUBS[parts.hub](parts) if parts.hub in HUBS else from_factory(parts, HUBS)
        model.module.eval()
        model = dataclasses.replace(model, spec=text)
    else:
        raise not_a_model(spec)
    if preprocess is None and modality not in (None, model.modality):
        raise InvalidInputError(
            f"modality={modality!r} says what preprocess= reads, which is missing, and model "
            f"{model.name!r} reads {model.modality!r} without it; give preprocess=…, a function "
            f"from one example to one input, or leave modality= out"
        )
    if preprocess is not None:
        reads = modality or "image"
        shape = _input_shape(preprocess, reads)
        model = dataclasses.replace(model, preprocess=preprocess, modality=reads, input_shape=shape)
        if head is None and not isinstance(spec, str):
            model = with_proven_head(model)
    if head is False:
        model = dataclasses.replace(model, head=None, open_head=False)
    elif isinstance(head, str):
        model = dataclasses.replace(model, head=check_head(model.module, head), open_head=False)
    if device is not None:
        model.module.to(device)
    return model if name is None else model.called(name)


def check_model(spec: Any) -> None:
    """Raise where no model has such a name, as far as is known without loading it."""
    from transfer_metrics.sources.models.hubs import check_name, find_factory

    if not isinstance(spec, str) or spec.startswith("popular:") or results_of(spec) is not None:
        return
    parsed = parse_model(parse_name(spec)[1])
    if parsed.hub in HUBS:
        check_name(parsed)
        return
    try:
        find_factory(parsed, HUBS)
    except TransferMetricsError:
        raise
    except Exception:  # what its module raises is told when it is loaded
        return


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
    (``timm:resnet*.*in1k``). Case matters. Hugging Face models cannot be listed. ``popular:small``,
    ``popular:base`` (images, up to 11 and 90 million parameters) and ``popular:text`` are lists of
    published models for a first try.

    Args:
        pattern: such as ``zoo:*``, ``timm:mobilenet*``, ``*resnet18`` or ``popular:small``.

    Raises:
        UnknownNameError: nothing matches.
        MissingDependencyError: the pattern names a hub whose package does not import.

    >>> "zoo:" in list_models("zoo:*")[0]
    True
    """
    hub, colon, _ = pattern.partition(":")
    listers: dict[str, Callable[[str], Iterable[str]]] = {
        "zoo": lambda _: zoo.names(),
        "timm": _timm,
        "torchvision": _torchvision,
    }
    if colon and hub not in (*listers, "popular") and not has_magic(hub):
        raise UnknownNameError.of("hub to list", hub, [*listers, "popular"])
    if colon and hub == "popular":
        lists = [(f"popular:{one['list']}", one["model"]) for one in zoo.popular()]
        listed = [model for name, model in lists if fnmatch.fnmatch(name, pattern)]
        if not listed:
            raise UnknownNameError.of("list of models", pattern, dict(lists))
        return listed
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


def _timm(pattern: str) -> Iterable[str]:
    names = require("timm", "listing timm models").list_models(pretrained=True)
    if "." in pattern:
        return names
    return dict.fromkeys(name.partition(".")[0] for name in names)


def _torchvision(_pattern: str) -> Iterable[str]:
    models = require("torchvision", "listing torchvision models").models
    return models.list_models(module=models)
