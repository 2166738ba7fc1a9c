"""Models from the bundled zoo, timm, torchvision, functions of one's own and plain modules."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from transfer_metrics.errors import (
    InvalidInputError,
    TransferMetricsError,
    UnknownNameError,
    first_line,
    warn,
)
from transfer_metrics.naming import a_type
from transfer_metrics.registry import choose
from transfer_metrics.sources import zoo
from transfer_metrics.sources.example import Modality
from transfer_metrics.sources.models.checkpoints import load_checkpoint
from transfer_metrics.sources.models.classifier import (
    configured_head,
    configured_heads,
    last_linear,
    proven_head,
    with_weights,
)
from transfer_metrics.sources.models.model import Model, place
from transfer_metrics.sources.models.modules import is_lazy, own_random_numbers, plain_module
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.preprocess import ImagePreprocess, to_mode
from transfer_metrics.sources.specs import ModelSpec
from transfer_metrics.untrusted import visible

_MOST = 300  # characters of what a constructor says of its failure


@dataclass(frozen=True)
class Converted:
    """Somebody else's image transform, preceded by the conversion to RGB or greyscale."""

    transform: Callable[[Any], torch.Tensor]
    mode: str

    def __call__(self, image: Any) -> torch.Tensor:
        """One image to one input."""
        return self.transform(to_mode(image, self.mode))


def check_name(spec: ModelSpec) -> None:
    """Raise where a hub that can be asked without a network has no such model or weights."""
    if spec.hub == "zoo":
        choose("zoo model", spec.name, zoo.names())
    elif spec.hub == "torchvision":
        models = require("torchvision", f"model {spec.text!r}").models
        choose("torchvision model", spec.name, models.list_models(module=models))
    elif spec.hub == "timm" and ":" not in spec.name:
        # hf-hub:… and local-dir:… name no registered architecture
        timm = require("timm", f"model {spec.text!r}")
        architecture, _, tag = spec.name.partition(".")
        choose("timm model", architecture, timm.list_models())
        if tag:
            choose(f"weights of timm model {architecture!r}", tag, _timm_tags(architecture))
    elif spec.hub == "hf":
        is_path = spec.name.startswith((".", "/", "~"))
        if is_path and not os.path.isdir(os.path.expanduser(spec.name)):
            raise InvalidInputError(
                f"model {spec.text!r}: there is no folder {spec.name!r}; check the path"
            )


def _timm_tags(architecture: str) -> list[str]:
    """Names of the weights that timm has for an architecture."""
    known = require("timm", "its weights").list_models(f"{architecture}.*", pretrained=True)
    return [name.partition(".")[2] for name in known]


def from_zoo(spec: ModelSpec) -> Model:
    """Load a bundled model."""
    if spec.options or spec.checkpoint or spec.seed is not None:
        raise InvalidInputError(
            f"model {spec.text!r}: bundled models take no options and no other weights"
        )
    revision = str(zoo.record(spec.name).get("sha256", ""))[:12]
    return from_module(zoo.build(spec.name), spec.text, spec.inputs, revision)


def from_timm(spec: ModelSpec) -> Model:
    """Load a timm model with pretrained, local or random weights."""
    timm = require("timm", f"model {spec.text!r}")
    options = dict(spec.options)
    if "checkpoint_path" in options:
        # Some versions of timm unpickle it.
        told = f"checkpoint_path is not taken; write timm:{spec.name}=FILE"
        raise InvalidInputError(f"model {spec.text!r}: {told}")
    pretrained = bool(options.pop("pretrained", True)) and not spec.checkpoint
    if pretrained and not any(mark in spec.name for mark in ":.") and not _timm_tags(spec.name):
        raise InvalidInputError(
            f"model {spec.text!r}: timm has no pretrained weights for it; give a file, "
            f"{spec.text}=weights.safetensors, or random ones, {spec.text}(pretrained=False)"
        )

    def make(**classes: int) -> nn.Module:
        given = {"pretrained": pretrained, **options, **classes}
        return _construct(spec, lambda: timm.create_model(spec.name, **given))

    module = make()
    revision = _config_of(module).get("tag") if pretrained else "random"
    if spec.checkpoint:
        heads = configured_heads(_config_of(module))
        module, revision = _with_file(module, make, spec, heads)
    elif pretrained and "num_classes" in options:
        _leave_out_random_head(module, options["num_classes"], spec)
    inputs = dict(spec.inputs)
    if "img_size" in options:
        inputs.setdefault("input_size", options["img_size"])
    return from_module(module, spec.text, inputs, revision or "", options.get("in_chans"))


def _leave_out_random_head(module: nn.Module, classes: Any, spec: ModelSpec) -> None:
    """Without a classifier of other classes than those of the weights: timm makes a random one."""
    config = _config_of(module)
    heads = [h for h in configured_heads(config) if with_weights(module, h)]
    if (known := config.get("num_classes")) in (None, classes) or not heads:
        return
    for head in heads:
        module.set_submodule(head, nn.Identity())
    warn(
        f"model {spec.text!r}: its weights know {known} classes, so a classifier of {classes} "
        f"would be random and is left out; without num_classes it keeps its own"
    )


def from_torchvision(spec: ModelSpec) -> Model:
    """Load a torchvision classifier with pretrained, local or random weights."""
    models = require("torchvision", f"model {spec.text!r}").models
    known = models.get_model_weights(spec.name)
    options = dict(spec.options)
    asked = options.pop("weights", None if spec.checkpoint else "DEFAULT")
    chosen: Any = None
    if asked is not None:
        label = str(asked).rpartition(".")[2]
        choose(f"weights of torchvision model {spec.name!r}", label, known.__members__)
        chosen = known[label]
        if options:  # which are not to be found wrong after a download
            _construct(spec, lambda: models.get_model(spec.name, weights=None, **options))
        # Read without unpickling first; torchvision's own loader would unpickle.
        _construct(spec, lambda: chosen.get_state_dict(check_hash=True, weights_only=True))
    elif spec.name in ("googlenet", "inception_v3"):
        options.setdefault("init_weights", False)  # theirs takes half a minute

    def make(**classes: int) -> nn.Module:
        given = {**options, **classes}
        return _construct(spec, lambda: models.get_model(spec.name, weights=chosen, **given))

    module = make()
    head = last_linear(module)
    revision = chosen.name if chosen is not None else "random"
    if spec.checkpoint:
        module, revision = _with_file(module, make, spec, [head] if head else [])
    transforms = (chosen or known.DEFAULT).transforms()
    preprocess = ImagePreprocess.from_resize(
        transforms.crop_size[0],
        transforms.resize_size[0],
        mean=transforms.mean,
        std=transforms.std,
        interpolation=transforms.interpolation.value,
    )
    if spec.inputs:
        config = {**vars(preprocess), "input_size": preprocess.shape}
        preprocess = _image_preprocess(config, spec.inputs, None, spec.text)
    head, shape = with_weights(module, head), preprocess.shape
    return Model(spec.text, module, preprocess, "image", head, shape, revision)


def from_factory(spec: ModelSpec, hubs: Iterable[str]) -> Model:
    """Call ``package.module:factory`` with every option that it has an argument for.

    What describes the input is used here where it has none for that.
    """
    given: dict[str, Any] = {}

    def make() -> Any:
        factory = find_factory(spec, hubs)
        given.update(_taken(factory, spec))
        if "seed" not in given:
            _check_seed(spec)
        return factory(**spec.options, **given)

    made = _construct(spec, make, of_hub=False)
    inputs = {name: value for name, value in spec.inputs.items() if name not in given}
    if isinstance(made, Model):
        if inputs:
            raise InvalidInputError(
                f"model {spec.text!r}: the factory returns a Model, which has its preprocessing, "
                f"and takes no {', '.join(inputs)}; leave it out"
            )
        model = made
    elif isinstance(made, nn.Module):
        model = from_module(made, spec.text, inputs, prove=True)
    else:
        raise InvalidInputError(
            f"model {spec.text!r}: the factory returned {a_type(made)}; it must return "
            f"a torch.nn.Module"
        )
    if not spec.checkpoint:
        return model
    heads = () if model.head is None else (model.head,)
    module, revision = load_checkpoint(model.module, spec.checkpoint, heads=heads)
    return dataclasses.replace(model, revision=revision, head=with_weights(module, model.head))


def _taken(factory: Callable[..., Any], spec: ModelSpec) -> dict[str, Any]:
    """Those of the options that the toolkit knows too which a factory has arguments for."""
    options = spec.inputs | ({} if spec.seed is None else {"seed": spec.seed})
    try:
        arguments = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of some functions in C nothing is known
        return {}
    if any(argument.kind == argument.VAR_KEYWORD for argument in arguments.values()):
        return options
    taken = [n for n, argument in arguments.items() if argument.kind != argument.POSITIONAL_ONLY]
    return {n: options[n] for n in options if n in taken}


def find_factory(spec: ModelSpec, hubs: Iterable[str]) -> Callable[..., Any]:
    """Import a factory, with the current directory in front as in ``python -m``.

    Names of hubs are suggested where there is no such module.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(spec.hub)
    except ModuleNotFoundError as error:
        if error.name and spec.hub.startswith(error.name):
            if "." not in spec.hub:
                raise UnknownNameError.of("hub or module", spec.hub, hubs) from error
            raise InvalidInputError(
                f"model {spec.text!r}: there is no module {error.name!r}; install it or run from "
                f"the folder that holds it"
            ) from error
        raise
    finally:
        sys.path.remove(here)
    for part in spec.name.split("."):
        if not hasattr(found, part):
            public = [n for n in dir(found) if not n.startswith("_")]
            raise UnknownNameError.of(f"factory in {spec.hub}", spec.name, public)
        found = getattr(found, part)
    if not isinstance(found, (nn.Module, Model)):
        return found
    if spec.options or spec.seed is not None:
        raise InvalidInputError(
            f"model {spec.text!r}: {spec.name} is a network and not a function, so it takes no "
            f"options; leave them out"
        )
    return lambda: found


def _with_file(
    module: nn.Module, make: Callable[..., nn.Module], spec: ModelSpec, heads: Sequence[str]
) -> tuple[nn.Module, str]:
    """A network with the weights of a file, whose number of classes counts unless one is given."""
    remake = None if "num_classes" in spec.options else lambda count: make(num_classes=count)
    return load_checkpoint(module, spec.checkpoint, remake, heads)


def from_module(
    module: nn.Module,
    name: str = "",
    inputs: Mapping[str, Any] | None = None,
    revision: str = "",
    channels: int | None = None,
    prove: bool = False,
) -> Model:
    """Wrap a network, reading its ``pretrained_cfg`` where it has one.

    ``inputs`` override the settings of its input, and ``channels`` their number. With ``prove``,
    the classifier is looked for with a forward pass where the configuration does not name it.
    """
    module = plain_module(module)
    name = name or type(module).__name__
    config = _config_of(module)
    size = (inputs or {}).get("input_size", config.get("input_size"))
    preprocess: Any = None
    modality: Modality = "tensor"
    if size is None or (isinstance(size, (tuple, list)) and len(size) != 3):
        shape = tuple(size) if size is not None else _first_width(module)
    else:
        preprocess, modality = _image_preprocess(config, inputs or {}, channels, name), "image"
        shape = getattr(preprocess, "shape", None)
        shape = shape or tuple(preprocess(Image.new("RGB", (64, 64))).shape)
    head = configured_head(module, config)
    model = Model(name, module, preprocess, modality, head, shape, revision)
    return with_proven_head(model) if prove and "classifier" not in config else model


def _config_of(module: nn.Module) -> Mapping[str, Any]:
    """The ``pretrained_cfg`` of a network; empty where it has none."""
    config = getattr(module, "pretrained_cfg", None) or {}
    return config if isinstance(config, Mapping) else config.to_dict()


def with_proven_head(model: Model) -> Model:
    """With the classifier that a forward pass shows, or that the examples of a task may show."""
    if model.head is not None:
        return model
    head = None
    if model.input_shape is not None and not is_lazy(model.module):
        batch = place(model.dummy(), model.module)
        head = proven_head(model.module, batch) if isinstance(batch, torch.Tensor) else None
    return dataclasses.replace(model, head=head, open_head=True)


def _first_width(module: nn.Module) -> tuple[int, ...] | None:
    """Shape of one input, where the first layer with weights tells."""
    if is_lazy(module):
        return None
    first = next((m for m in module.modules() if [*m.parameters(recurse=False)]), None)
    if isinstance(first, nn.Linear):
        return (first.in_features,)
    if isinstance(first, nn.LayerNorm):
        return first.normalized_shape
    return (first.num_features,) if isinstance(first, nn.BatchNorm1d) else None


def _image_preprocess(
    config: Mapping[str, Any], inputs: Mapping[str, Any], channels: int | None, name: str
) -> Any:
    settings = {**config, **inputs}
    size = settings["input_size"]
    planes = channels or (config.get("input_size") or (3,) if isinstance(size, int) else size)[0]
    height, width = (size, size) if isinstance(size, int) else size[1:]
    for key in ("mean", "std"):
        if settings.get(key) is None:
            raise InvalidInputError(
                f"model {name!r}: its pretrained_cfg gives no {key}; add it (one value per "
                f"channel, in units where white is 1), or pass preprocess=…"
            )
        values = settings[key] if isinstance(settings[key], (tuple, list)) else (settings[key],)
        if planes == 1:  # a greyscale image copied into RGB has the mean of the three on average
            values = (sum(values) / len(values),)
        settings[key] = tuple(values) * (planes if len(values) == 1 else 1)
    interpolation = settings.get("interpolation") or "bilinear"
    if height == width and settings.get("crop_mode", "center") in (None, "", "center"):
        fraction = settings.get("crop_pct") or 1.0
        return ImagePreprocess(height, settings["mean"], settings["std"], interpolation, fraction)
    data = require("timm", f"the {settings.get('crop_mode')} preprocessing of {name!r}").data
    transform = data.create_transform(
        (planes, height, width),
        is_training=False,
        interpolation=interpolation,
        mean=settings["mean"],
        std=settings["std"],
        crop_pct=settings.get("crop_pct") or 1.0,
        crop_mode=settings.get("crop_mode"),
    )
    return Converted(transform, "L" if planes == 1 else "RGB")


def _check_seed(spec: ModelSpec) -> None:
    if spec.seed is not None and not isinstance(spec.seed, int):
        told = f"seed must be a whole number, not {spec.seed!r}"
        raise InvalidInputError(f"model {spec.text!r}: {told}")


def _construct(spec: ModelSpec, make: Callable[[], Any], *, of_hub: bool = True) -> Any:
    """Run a constructor reproducibly, and turn what it raises into one sentence."""
    if of_hub:
        _check_seed(spec)
    try:
        with own_random_numbers(spec.seed if isinstance(spec.seed, int) else 0):
            return make()
    except TransferMetricsError:
        raise
    except TypeError as error:
        raise InvalidInputError(
            f"model {spec.text!r}: the constructor refuses the options {spec.options} "
            f"({visible(error, _MOST)})"
        ) from error
    except Exception as error:  # downloads and constructors raise anything
        reason = f"{type(error).__name__}: {visible(first_line(error), _MOST)}"
        if of_hub and not spec.checkpoint:
            raise InvalidInputError(
                f"model {spec.text!r}: its pretrained weights are not in the local cache and "
                f"could not be fetched ({reason}); connect to the network once, or give a file: "
                f"{spec.hub}:{spec.name}=weights.safetensors"
            ) from error
        raise InvalidInputError(f"model {spec.text!r} could not be made ({reason})") from error
