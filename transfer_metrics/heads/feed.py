"""What goes into a network: as people are told, and as a file takes it without this package."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from transfer_metrics.sources.example import Word
from transfer_metrics.sources.models.huggingface_audio import has_window
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.tokens import Tokens
from transfer_metrics.sources.preprocess import ImagePreprocess
from transfer_metrics.untrusted import visible

_SIZES = (1, 2, 5)
"""Batches that a file is tried on."""


def preprocessing(model: Model) -> dict[str, Any]:
    """What becomes of a raw example before the network, as JSON can hold it; for people to read.

    >>> from transfer_metrics.sources.models.load_model import load_model
    >>> preprocessing(load_model("zoo:cnn-mnist"))["resize"]
    32
    """
    made: Any = model.preprocess
    told: dict[str, Any] = {"modality": model.modality}
    if isinstance(made, ImagePreprocess):
        mode = "RGB" if len(made.mean) == 3 else "greyscale"
        crop = {"resize": made.resize, "crop": made.size, "interpolation": made.interpolation}
        return {**told, "mode": mode, **crop, "mean": list(made.mean), "std": list(made.std)}
    processor = getattr(made, "processor", None)
    if processor is not None:
        return {**told, "mode": "RGB", "processor": json.loads(processor.to_json_string())}
    if isinstance(model.collate, Tokens):
        tokens = model.collate
        return {**told, "tokenizer": type(tokens.tokenizer).__name__, "longest": tokens.longest}
    return told if made is None else {**told, "function": visible(repr(made), 1000)}


@dataclass(frozen=True, eq=False)
class Feed:
    """How a model is fed from outside.

    ``normalisation`` is the mean and standard deviation per channel where pixels are given,
    ``argument`` the keyword of the network for its one input of some ``shape``, "" where it has
    none; both are None where all that a batch has is given. ``ids`` is how many there are where the
    input is ids that are looked up, else 0. ``constant`` are further keywords, with
    what is the same for every example, (1, …); ``about`` is what a user of the file must know.
    """

    model: Model
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None
    argument: str | None
    constant: dict[str, Tensor]
    shape: tuple[int, ...] | None
    about: dict[str, Any]
    ids: int = 0

    @classmethod
    def of(cls, model: Model, arrays: Sequence[int] | None = None) -> Feed:
        """Find out; ``arrays`` is the shape of examples that are arrays, which are given as such.

        Raises:
            InvalidInputError: the shape of the input is not known.
        """
        about = {"preprocessing": preprocessing(model)}
        if model.modality in ("text", "audio"):
            tokenizer: Any = getattr(model.collate, "tokenizer", None)
            if hasattr(tokenizer, "backend_tokenizer"):
                about["tokenizer"] = json.loads(tokenizer.backend_tokenizer.to_str())
            return cls(model, None, None, {}, None, about)
        if arrays is None:
            dummy = model.dummy(2)
            normalisation = _normalisation(model) if model.modality == "image" else None
        else:
            dummy = model.batch([np.zeros(tuple(arrays), np.float32)] * 2)
            normalisation = None
            if model.modality == "image":
                about["preprocessing"] = {"modality": "tensor"}
        if isinstance(dummy, Tensor):
            # Ids are whole numbers, and a layer that looks them up says how many there are.
            tables = (getattr(m, "num_embeddings", 0) for m in model.module.modules())
            ids = 0 if dummy.is_floating_point() else max(tables, default=0)
            return cls(model, normalisation, "", {}, tuple(dummy.shape[1:]), about, ids)
        name, x = max(dummy.items(), key=lambda item: item[1].ndim)
        constant = {other: rows[:1].clone() for other, rows in dummy.items() if other != name}
        return cls(model, normalisation, name, constant, tuple(x.shape[1:]), about)

    @property
    def name(self) -> str:
        """Of the one input."""
        return "pixels" if self.normalisation else "inputs"

    def trials(self) -> list[dict[str, Tensor]]:
        """Inputs of a few sizes that mean nothing."""
        noise = torch.Generator().manual_seed(0)
        if self.shape is None:
            return [self.of_batch(self.model.batch(self._sequences(n))) for n in _SIZES]
        shapes = [(n, *self.shape) for n in _SIZES]
        if self.normalisation:
            made = (torch.randint(0, 256, shape, generator=noise).byte() for shape in shapes)
        elif self.ids:
            made = (torch.randint(0, self.ids, shape, generator=noise) for shape in shapes)
        else:
            made = (torch.randn(shape, generator=noise) for shape in shapes)
        return [{self.name: x} for x in made]

    def words(self) -> Any:
        """A batch of words in sentences, some of several tokens."""
        sentences = [("a", "b"), ("something", "b", "unforeseeable", "c"), ("c", "a", "b")]
        return self.model.batch([Word(s, i) for s in sentences for i in range(len(s))])

    def of_batch(self, batch: Any) -> dict[str, Tensor]:
        """What the network takes as the file takes it."""
        if self.shape is None:
            return dict(batch)
        x = batch[self.argument] if self.argument else batch
        if self.normalisation:
            mean, std = (torch.tensor(values)[:, None, None] for values in self.normalisation)
            x = (255 * (x * std + mean)).round().clamp(0, 255).byte()
        return {self.name: x}

    def open_axes(self, inputs: Mapping[str, Tensor]) -> dict[str, dict[int, Any]]:
        """Which axes of the inputs have any length."""
        longest = getattr(self.model.collate, "longest", None)
        batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=longest)
        # Whisper and its like cut and pad every sound to one window.
        window = has_window(getattr(self.model.collate, "extractor", None))
        if self.shape is not None or window:
            return {name: {0: batch} for name in inputs}
        return {n: {0: batch, 1: length} if x.ndim > 1 else {0: batch} for n, x in inputs.items()}

    def _sequences(self, n: int) -> list[Any]:
        if self.model.modality == "text":
            return [f"a{' b c' * (i + 2)}" for i in range(n)]
        rate = self.model.input_shape[0] if self.model.input_shape else 16000
        noise = np.random.default_rng(0)
        return [noise.normal(0, 0.1, rate + 80 * n).astype(np.float32) for _ in range(n)]


def _normalisation(model: Model) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of pixels in 0 to 1; None where inputs are made another way.

    Tried on an image: what is undone must be whole numbers.
    """
    made: Any = model.preprocess
    last = getattr(getattr(made, "transform", None), "transforms", [None])[-1]
    processor = getattr(made, "processor", None)
    if hasattr(made, "mean") and hasattr(made, "std"):
        mean, std = made.mean, made.std
    elif hasattr(last, "mean") and hasattr(last, "std"):
        mean, std = last.mean, last.std
    elif processor is not None:
        normalises = getattr(processor, "do_normalize", False)
        mean = processor.image_mean if normalises else (0.0,) * 3
        std = processor.image_std if normalises else (1.0,) * 3
        # Pixels are multiplied by this instead of divided by 255.
        factor = 255 * (processor.rescale_factor if processor.do_rescale else 1.0)
        mean, std = ([float(v) / factor for v in values] for values in (mean, std))
    else:
        return None
    found = tuple(map(float, mean)), tuple(map(float, std))
    noise = np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    x = made(Image.fromarray(noise))
    pixels = 255 * (
        x * torch.tensor(found[1])[:, None, None] + torch.tensor(found[0])[:, None, None]
    )
    whole = (pixels - pixels.round()).abs().max() < 0.01 and pixels.round().min() >= 0
    return found if whole and pixels.round().max() <= 255 else None
