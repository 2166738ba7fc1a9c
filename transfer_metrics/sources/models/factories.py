"""Models from functions of one's own: ``package.module:factory(option=value)=checkpoint``."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from transfer_metrics.errors import InvalidInputError, UnknownNameError
from transfer_metrics.sources.models.checkpoints import load_checkpoint
from transfer_metrics.sources.models.classifier import with_weights
from transfer_metrics.sources.models.hubs import check_seed, construct, from_module
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.specs import ModelSpec


def from_factory(spec: ModelSpec, hubs: Iterable[str] = ()) -> Model:
    """Call ``package.module:factory``; the current directory is importable meanwhile.

    The factory gets every option that it has an argument for; what describes the input is used here
    where it has none. Names of hubs are suggested where there is no such module.
    """
    given: dict[str, Any] = {}

    def make() -> Any:
        factory = find_factory(spec, hubs)
        given.update(_taken(factory, spec))
        if "seed" not in given:
            check_seed(spec)
        return factory(**spec.options, **given)

    made = construct(spec, make, of_hub=False)
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
            f"model {spec.text!r}: the factory returned a {type(made).__name__}; it must return "
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
    kinds = {argument.kind for argument in arguments.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return options
    return {
        name: value
        for name, value in options.items()
        if name in arguments and arguments[name].kind != inspect.Parameter.POSITIONAL_ONLY
    }


def find_factory(spec: ModelSpec, hubs: Iterable[str]) -> Callable[..., Any]:
    """Import the factory, with the current directory in front as in ``python -m``."""
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
