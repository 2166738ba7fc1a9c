"""Images made worse in a controlled way: data out of distribution where none is at hand."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from transfer_metrics.errors import InvalidInputError, UnsupportedTaskError, check_whole
from transfer_metrics.naming import a_type
from transfer_metrics.registry import choose
from transfer_metrics.sources.example import example_modality
from transfer_metrics.sources.preprocess import to_mode
from transfer_metrics.sources.tasks.sequences import Examples
from transfer_metrics.sources.tasks.task import Split

_SEVERITIES = 5


def _gaussian_noise(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Normal noise of 10, 20, 31, 46 or 64 grey levels."""
    pixels = np.asarray(image, np.float64)
    noise = rng.normal(scale=(10, 20, 31, 46, 64)[severity - 1], size=pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8), image.mode)


def _blur(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Gaussian blur; the radius is 1.5 % of the shorter side times the severity."""
    return image.filter(ImageFilter.GaussianBlur(0.015 * severity * min(image.size)))


def _contrast(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Contrast cut to 75, 50, 40, 25 or 15 %."""
    return ImageEnhance.Contrast(image).enhance((0.75, 0.5, 0.4, 0.25, 0.15)[severity - 1])


def _brightness(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Every pixel brighter by 10 % of the range times the severity."""
    pixels = np.asarray(image, np.int16) + round(25.5 * severity)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), image.mode)


def _pixelate(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Shrunk to 80, 65, 50, 40 or 30 % of the side, and enlarged again without smoothing."""
    factor = (0.8, 0.65, 0.5, 0.4, 0.3)[severity - 1]
    small = [max(1, round(side * factor)) for side in image.size]
    shrunk = image.resize((small[0], small[1]), Image.Resampling.BOX)
    return shrunk.resize(image.size, Image.Resampling.NEAREST)


def _jpeg(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """JPEG of quality 50, 30, 20, 12 or 7."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=(50, 30, 20, 12, 7)[severity - 1])
    return Image.open(buffer).convert(image.mode)


CORRUPTIONS: dict[str, Callable[[Image.Image, int, np.random.Generator], Image.Image]] = {
    "gaussian_noise": _gaussian_noise,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}


@dataclass(frozen=True, eq=False)
class _CorruptedImages(Examples):
    """Images corrupted on access, each in the same way every time."""

    images: Sequence[Any]
    kind: str
    severity: int
    seed: int

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Image.Image:
        image = self.images[index]
        image = image if image.mode in ("L", "RGB") else to_mode(image, "RGB")
        rng = np.random.default_rng((self.seed, index))
        return CORRUPTIONS[self.kind](image, self.severity, rng)


def corrupted(split: Split, kind: str, severity: int = 3, *, seed: int = 0) -> Split:
    """A split with its images corrupted, and the same labels.

    The kinds are those of the common-corruption benchmarks (Hendrycks and Dietterich, ICLR 2019)
    that need no more than arithmetic on pixels; the strengths are ours, so accuracies are not
    comparable with published ones.

    Args:
        split: images, such as ``task["test"]``.
        kind: ``gaussian_noise``, ``blur``, ``contrast``, ``brightness``, ``pixelate``, ``jpeg``.
        severity: 1 to 5.
        seed: of the noise.

    Returns:
        A split whose images are corrupted when they are read.

    Raises:
        UnknownNameError: no such kind.
        InvalidInputError: no split, or a severity or seed out of range.
        UnsupportedTaskError: the examples are no images.

    >>> from transfer_metrics.sources.tasks.load_task import load_task
    >>> digits = load_task("sklearn:digits")["test"]
    >>> worse = corrupted(digits, "blur")
    >>> worse.examples[0].size == digits.examples[0].size
    True
    """
    if not isinstance(split, Split):
        raise InvalidInputError(
            f"{a_type(split)} is no split; give one of a task, such as "
            f"load_task('imagefolder:photos/')['test']"
        )
    choose("corruption", kind, CORRUPTIONS)
    if not isinstance(severity, (int, np.integer)) or not 1 <= severity <= _SEVERITIES:
        raise InvalidInputError(
            f"severity={severity!r}; use a whole number from 1 to {_SEVERITIES}"
        )
    check_whole(0, seed=seed)
    if example_modality(split.examples[0]) != "image":
        raise UnsupportedTaskError(f"corruption {kind!r} is one of images, and these are none")
    return Split(_CorruptedImages(split.examples, kind, severity, seed), split.labels)
