"""The evaluation transform of image classifiers, as one small value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.registry import choose

if TYPE_CHECKING:
    import torch

_INTERPOLATIONS = {
    name: Image.Resampling[name.upper()]
    for name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
}
# What Pillow does not convert to all others at once.
_ON_THE_WAY = {"La": "LA", "LAB": "RGB"}
_DARK = 4096
"""Beyond what 12 bits hold, as cameras and scanners write them into 16."""
_MOST_ASPECT = 128
"""Sides of an image beyond this proportion are cut before it is resized."""


@dataclass(frozen=True)
class ImagePreprocess:
    """Resize the shorter side, crop the centre, scale to 0..1 and normalise.

    The shorter side is resized to ``floor(size / crop_pct)``, the longer one keeps the aspect
    ratio (rounded down), then the centre ``size`` x ``size`` is cut out. The result equals the
    evaluation transforms of timm (crop mode ``center``) and torchvision bit for bit, but for strips
    longer than 128 times their width, whose far ends are not resized.

    Args:
        size: height and width of the result, in pixels.
        mean: subtracted per channel, in units where white is 1. Three values make an RGB input
            and one value a greyscale one, whatever the image's own mode.
        std: divisor per channel, in the same units.
        interpolation: ``nearest``, ``bilinear``, ``bicubic``, ``lanczos``, ``box``, ``hamming``.
        crop_pct: the side of the crop as a fraction of the resized shorter side.

    Raises:
        InvalidInputError: a value is out of range.
        UnknownNameError: the interpolation is not known.

    >>> transform = ImagePreprocess(4, mean=(0.5,), std=(0.5,))
    >>> transform(Image.new("L", (8, 6), 255)).shape
    torch.Size([1, 4, 4])
    """

    size: int
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    crop_pct: float = 1.0

    def __post_init__(self) -> None:
        # Lists and scalars arrive from configuration files and command lines.
        for name in ("mean", "std"):
            value = getattr(self, name)
            values = (value,) if isinstance(value, (int, float)) else value
            object.__setattr__(self, name, tuple(float(v) for v in values))
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise InvalidInputError(
                f"mean {self.mean} and std {self.std}: give one value each for greyscale or "
                f"three each for RGB"
            )
        if not all(s > 0 for s in self.std):
            raise InvalidInputError(f"std {self.std}: every value must be positive")
        if not (isinstance(self.size, int) and self.size > 0):
            raise InvalidInputError(f"size {self.size!r}: give a positive number of pixels")
        if not 0 < self.crop_pct <= 1:
            raise InvalidInputError(f"crop_pct {self.crop_pct!r}: give a number in (0, 1]")
        choose("interpolation", self.interpolation, _INTERPOLATIONS)

    @classmethod
    def from_resize(cls, size: int, resize: int, **settings: Any) -> ImagePreprocess:
        """Make the transform that resizes the shorter side to ``resize`` before the crop.

        >>> ImagePreprocess.from_resize(224, 236).resize
        236
        """
        fraction = size / resize
        while math.floor(size / fraction) < resize:  # the division may round down
            fraction = math.nextafter(fraction, 0)
        return cls(size, crop_pct=fraction, **settings)

    @property
    def resize(self) -> int:
        """Pixels of the shorter side before the crop."""
        return math.floor(self.size / self.crop_pct)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of the result."""
        return (len(self.mean), self.size, self.size)

    def __call__(self, image: Image.Image | np.ndarray) -> torch.Tensor:
        """Turn a PIL image, or a uint8 array (H, W), (H, W, 1) or (H, W, 3), into an input.

        Returns:
            float32 tensor (C, size, size).

        Raises:
            InvalidInputError: the image has a mode or type that cannot be read as 8 bits.
        """
        return self.normalised(self.pixels(image))

    def pixels(self, image: Image.Image | np.ndarray) -> torch.Tensor:
        """Resized and cropped, uint8 (C, size, size): all but ``mean`` and ``std``."""
        import torch

        image = self._resized(to_mode(image, self._mode))
        pixels = torch.from_numpy(np.array(image)).reshape(self.size, self.size, -1)
        return pixels.permute(2, 0, 1).contiguous()

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Inputs float32 of pixels uint8 (…, C, size, size)."""
        import torch

        values = pixels.to(torch.float32).div_(255)
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return values.sub_(mean).div_(std)

    @property
    def geometry(self) -> tuple[int, int, str, str]:
        """What pixels depend on."""
        return self.size, self.resize, self.interpolation, self._mode

    @property
    def _mode(self) -> str:
        return "L" if len(self.mean) == 1 else "RGB"

    def _resized(self, image: Image.Image) -> Image.Image:
        image = _without_ends(image)
        width, height = image.size
        short, long = self.resize, int(self.resize * max(width, height) / min(width, height))
        target = (short, long) if width <= height else (long, short)
        if target != image.size:
            image = image.resize(target, _INTERPOLATIONS[self.interpolation])
        left = round((target[0] - self.size) / 2)
        top = round((target[1] - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))


def _without_ends(image: Image.Image) -> Image.Image:
    """A long strip less its ends, which no crop of the centre reaches but which fill the memory."""
    width, height = image.size
    most = _MOST_ASPECT * min(width, height)
    # An even number is cut off, so that the centre stays the centre.
    cut_x, cut_y = (max(0, side - most) // 2 for side in (width, height))
    return image.crop((cut_x, cut_y, width - cut_x, height - cut_y)) if cut_x or cut_y else image


def to_mode(image: Image.Image | np.ndarray, mode: str) -> Image.Image:
    """Convert any 8 or 16 bit image to ``"RGB"`` or ``"L"``; transparency is dropped.

    Of grey values of 16 bits the upper 8 count, in every image alike, as Pillow reads colours of 16
    bits; a warning tells of an image that is nearly black by that.

    >>> to_mode(Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)), "L").tobytes().hex()
    '0080ff'
    """
    if not isinstance(image, Image.Image):
        image = array_to_image(image)
    if 0 in image.size:
        raise InvalidInputError(
            f"an image of {image.size[0]} x {image.size[1]} pixels has none; leave it out"
        )
    if image.mode.startswith("I;16"):
        deep = np.asarray(image)
        if deep.max() < _DARK:
            warn(
                "an image of 16 bits has no value above 4095 of 65535 and is nearly black; if its "
                "white is less, as of cameras of 12 bits, scale all images by it"
            )
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        file = getattr(image, "filename", "")
        raise InvalidInputError(
            f"{f'image {str(file)!r}' if file else 'an image'} has 32-bit pixels (mode "
            f"{image.mode!r}), whose range is not known; convert it to 8 bits per channel"
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in _ON_THE_WAY:
        image = image.convert(_ON_THE_WAY[image.mode])
    return image if image.mode == mode else image.convert(mode)


def array_to_image(array: Any) -> Image.Image:
    """View a uint8 array (H, W), (H, W, 1) or (H, W, 3) as an image."""
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or not (array.ndim == 2 or array.shape[2:] == (3,)):
        raise InvalidInputError(
            f"an array of shape {array.shape} and type {array.dtype} is no image; images are "
            f"uint8 of shape (H, W), (H, W, 1) or (H, W, 3)"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def channels_last(pixels: np.ndarray) -> np.ndarray:
    """uint8 images (..., H, W, C) of such, or of (..., C, H, W) as torch has them.

    Raises:
        InvalidInputError: both the first and the last of these axes could be 1 or 3 channels.

    >>> channels_last(np.zeros((9, 3, 5, 4), np.uint8)).shape
    (9, 5, 4, 3)
    """
    first, last = (pixels.shape[axis] in (1, 3) for axis in (-3, -1))
    if first and last and math.prod(pixels.shape[-3:]) not in (1, 3):
        raise InvalidInputError(
            f"images of shape {pixels.shape[-3:]} have channels first or last; give a list of "
            f"images of PIL, or grey ones as (H, W)"
        )
    return np.moveaxis(pixels, -3, -1) if first and not last else pixels
