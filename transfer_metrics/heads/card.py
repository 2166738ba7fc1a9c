"""What a saved head tells of the examples that it was fitted on, which new ones have to be like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from transfer_metrics.errors import InvalidInputError, TransferMetricsError, warn
from transfer_metrics.sources.example import PixelMap, Word, example_modality, is_pair
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.task import Task

_LOOKED_AT = 64
"""Arrays whose shapes and values are looked at."""
_FAR = 100.0
"""By so many times values differ that have another unit, as pixels of 0 to 255 and of 0 to 1."""


def card_of(task: Task, model: Model) -> dict[str, Any]:
    """What is kept of a task and of how its training examples entered a model."""
    split = task["train"]
    told: dict[str, Any] = {"name": task.name, "kind": task.kind, "modality": task.modality}
    told |= {"examples": len(split), "inputs": list(task.understood.inputs)}
    if split.units is not None:
        told["words"] = True
    if task.modality == "text":
        told["pairs"] = is_pair(split.examples[0])
    elif task.modality == "tensor" and are_pixels(model, split.examples[0]):
        told["modality"] = "image"
    elif task.modality == "tensor":
        found = _some(split.examples)
        told["shape"] = list(found[0].shape)
        if any(x.shape != found[0].shape for x in found):
            told["any_size"] = True
        told["range"] = [min(float(x.min()) for x in found), max(float(x.max()) for x in found)]
    return told


def are_pixels(model: Model, example: Any) -> bool:
    """Whether a model resizes and normalises an example itself, as it does images of any form.

    Arrays that are no pixels it takes as they are.
    """
    return model.normalises and isinstance(example, (Image.Image, PixelMap))


def refuse_others(about: Mapping[str, Any], model: Model, examples: Sequence[Any]) -> None:
    """Refuse examples that would enter the model otherwise than those that a head was fitted on.

    ``about`` is what ``card_of`` told. Arrays of values of quite another size are warned of.
    """
    given = about.get("modality")
    if not len(examples) or given not in ("text", "tensor"):
        return
    try:
        first = examples[0]
    except TransferMetricsError:  # which is told of with the others that cannot be read
        return
    if given == "text":
        _refuse_texts(about, first)
    elif model.modality in ("image", "tensor") and "shape" in about:
        _refuse_arrays(about, model, examples, first)


def _refuse_texts(about: Mapping[str, Any], first: Any) -> None:
    pairs = about.get("pairs", len(about.get("inputs", ())) == 2)
    fitted = "words" if about.get("words") else "pairs of texts" if pairs else "texts"
    found = "words" if isinstance(first, Word) else "texts"
    found = "pairs of texts" if is_pair(first) else found
    if found != fitted:
        cure = {
            "words": "texts or lists of words",
            "pairs of texts": "pairs (text, text), or a table with both columns",
        }
        raise InvalidInputError(
            f"the head was fitted on {fitted}, and the examples are {found}; give "
            f"{cure.get(fitted, 'texts')}"
        )


def _refuse_arrays(
    about: Mapping[str, Any], model: Model, examples: Sequence[Any], first: Any
) -> None:
    shape, values = tuple(about["shape"]), about.get("range", (-np.inf, np.inf))
    fitted = f"the head was fitted on arrays {shape} of {values[0]:.3g} to {values[1]:.3g}"
    if are_pixels(model, first):
        raise InvalidInputError(
            f"{fitted}, which {model.name!r} took as they are, and the examples are images, which "
            f"it would resize and normalise itself; give arrays that are made as those were, or "
            f"fit the head on images"
        )
    if example_modality(first) != "tensor":
        return  # which the model refuses in words of its own
    found = _some(examples)
    for x in found:
        # Of a map the first axis holds the channels, of a row the columns.
        if x.ndim != len(shape) or (x.shape[:1] != shape[:1] and x.ndim in (1, 3)):
            raise InvalidInputError(f"{fitted}, and an example has the shape {x.shape}")
        if x.shape != shape and not about.get("any_size"):
            warn(f"{fitted}, and examples have the shape {x.shape}, which is another scale")
            break
    most = max(float(np.abs(x).max()) for x in found)
    usual = max(abs(float(value)) for value in values)
    if most > 0 and not usual / _FAR < most < usual * _FAR:
        warn(f"{fitted}, and these have values of up to {most:.3g}, which may be another unit")


def _some(examples: Sequence[Any]) -> list[np.ndarray]:
    """Some arrays, from the first to the last."""
    rows = np.unique(np.linspace(0, len(examples) - 1, _LOOKED_AT).astype(int))
    return [np.asarray(examples[row]) for row in rows.tolist()]
