"""What a head was fitted on: its model, and examples that new ones have to be like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from transfer_metrics.errors import (
    IncompatibleStoreError,
    InvalidInputError,
    TransferMetricsError,
    warn,
)
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.sources.example import PixelMap, Word, example_modality, is_pair
from transfer_metrics.sources.models.candidates import candidates_of
from transfer_metrics.sources.models.load_model import load_model
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.settings import Settings
from transfer_metrics.sources.specs import HUB_NAMES, results_of
from transfer_metrics.sources.tasks.task import Task
from transfer_metrics.untrusted import visible

_LOOKED_AT = 64
"""Arrays whose shapes and values are looked at."""
_FAR = 100.0
"""By so many times values differ that have another unit, as pixels of 0 to 255 and of 0 to 1."""


@dataclass
class ModelRef:
    """A model by name and fingerprint, and the model itself once it is there.

    The name is the specification it was loaded from, which ``spec`` is where it has a name of one's
    own, or the class of a module; the fingerprint a SHA-256 over structure, weights and
    preprocessing. ``settings`` are its attributes, code and hooks, where they are known.
    """

    name: str
    revision: str
    fingerprint: str
    model: Model | None = None
    settings: Settings | None = None
    spec: str = ""

    @property
    def loads(self) -> bool:
        """Whether it is loaded from a hub, without the model being given."""
        # The name may come from a file, and a factory's name would run code of its choice.
        hub, colon, _ = (self.spec or self.name).partition(":")
        return bool(colon) and hub in HUB_NAMES

    @classmethod
    def of(cls, model: Model, settings: Settings | None = None) -> ModelRef:
        """Refer to a model that is loaded."""
        return cls(model.name, model.revision, model.fingerprint, model, settings, model.spec)

    @classmethod
    def of_store(cls, store: FeatureStore) -> ModelRef:
        """Refer to the model whose features a store holds."""
        manifest = store.manifest
        digest, changing = manifest.get("settings"), manifest.get("changing") or ()
        settings = None if digest is None else Settings(digest, tuple(changing))
        names = manifest["model"], manifest["revision"], manifest["model_fingerprint"]
        return cls(*names, settings=settings, spec=manifest.get("spec") or "")

    def get(self) -> Model:
        """The model, loaded from a hub by its name if it is not there yet."""
        if self.model is None:
            if not self.loads:
                raise InvalidInputError(
                    f"the head belongs to {self.name!r}, which is not the name of a model in "
                    f"{', '.join(HUB_NAMES)} and is not loaded by name; pass the model: "
                    f"`--model {visible(self.name)}`, load_head(path, model=…) or network(model)"
                )
            self.adopt(self.spec or self.name)
        assert self.model is not None
        return self.model

    def adopt(self, model: Any) -> None:
        """Take the model that was given, if its fingerprint is the one of this.

        Of several, as a list ``@models.txt`` has them, that of this name.
        """
        if model == self.name and self.spec and self.loads:
            model = self.spec
        if isinstance(model, str) and results_of(model) is None:
            found = candidates_of(model)
            named = [one for one in found if one.name == self.name]
            if len(found) > 1 and not named:
                raise InvalidInputError(
                    f"{model!r} has {len(found)} models, and none is called {self.name!r}, which "
                    f"the head was fitted on; give that one"
                )
            model = (named or found)[0].load()
        model = load_model(model)
        if model.fingerprint != self.fingerprint:
            raise IncompatibleStoreError(
                f"the head was fitted on {self.name!r} with fingerprint {self.fingerprint[:12]}…, "
                f"and {model.name!r} as it is now has {model.fingerprint[:12]}…; pass the model "
                f"with the weights and preprocessing of then as model="
            )
        if self.settings is not None and not self.settings.hold_in(model.module):
            raise IncompatibleStoreError(
                f"the head was fitted on {self.name!r} when its code, hooks or attributes were "
                f"others, though its weights are the same; pass the network as it was then as "
                f"model=, or fit the head again"
            )
        self.model = model

    def check(self, store: FeatureStore, pool: str | None) -> None:
        """Refuse features of another model, or of this one with other settings or pooling."""
        digest = store.manifest.get("settings")
        if store.manifest["model_fingerprint"] != self.fingerprint:
            raise IncompatibleStoreError(
                f"the store holds features of {store.model!r}, and the head was fitted on "
                f"{self.name!r} with other weights or preprocessing; extract them with that model"
            )
        if self.settings is not None and digest not in (None, self.settings.digest):
            raise IncompatibleStoreError(
                f"the store holds features of {store.model!r} with other code, hooks or attributes "
                f"than when the head was fitted; extract them with that network"
            )
        if pool not in (None, store.manifest["pool"]):
            raise IncompatibleStoreError(
                f"the store was pooled with {store.manifest['pool']!r}, and the head was fitted on "
                f"{pool!r}; extract with pool={pool!r}"
            )


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
